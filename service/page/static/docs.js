// Shows /openapi.json with Swagger UI, which is a part of the service; the page loads nothing from other hosts.

SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#api",
  deepLinking: true,
  persistAuthorization: false,
  // The validator is a service of another host.
  validatorUrl: null,
});

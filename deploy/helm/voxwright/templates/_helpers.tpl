{{/* Compute capabilities of contract/arch.py (a test compares them): [major, minor], empty for the CPU. */}}
{{- define "voxwright.capabilities" -}}
{"cpu": [], "sm75": ["7", "5"], "sm80": ["8", "0"], "sm86": ["8", "6"], "sm89": ["8", "9"], "sm90": ["9", "0"]}
{{- end -}}

{{/* The labels that all servers of a release have, for every architecture. */}}
{{- define "voxwright.selector" -}}
app.kubernetes.io/name: voxwright
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: server
{{- end -}}

{{/* The labels of the service for applications. */}}
{{- define "voxwright.applications" -}}
app.kubernetes.io/name: voxwright-service
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: service
{{- end -}}

{{- define "voxwright.version" -}}
{{ .Values.image.version | default .Chart.AppVersion }}
{{- end -}}

{{/* The image of an architecture: for a GPU it contains the engines of that architecture. Takes a dict of root and arch. */}}
{{- define "voxwright.image" -}}
{{- $version := include "voxwright.version" .root -}}
{{- if eq .arch "cpu" -}}
{{ .root.Values.image.registry }}voxwright-runtime-cpu:{{ $version }}
{{- else -}}
{{ .root.Values.image.registry }}voxwright-runtime:{{ $version }}-{{ .root.Values.platform }}-{{ .arch }}
{{- end -}}
{{- end -}}

{{- define "voxwright.validate" -}}
{{- if not .Values.architectures -}}
{{- fail "architectures: the list is empty, so no server would be deployed. Name the architectures of your GPUs, for example --set architectures.sm86.replicas=1." -}}
{{- end -}}
{{- range $arch, $wanted := .Values.architectures -}}
{{- if and $wanted.maxReplicas (lt (int $wanted.maxReplicas) (int $wanted.replicas)) -}}
{{- fail (printf "architectures.%s.maxReplicas: it is less than replicas. Remove it to turn off autoscaling, or raise it." $arch) -}}
{{- end -}}
{{- end -}}
{{- include "voxwright.free" (dict "value" "nodeSelector" "names" (keys .Values.nodeSelector) "taken" (list "kubernetes.io/arch" "nvidia.com/gpu.compute.major" "nvidia.com/gpu.compute.minor")) -}}
{{- include "voxwright.free" (dict "value" "podLabels" "names" (keys .Values.podLabels) "taken" (list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" "app.kubernetes.io/version" "voxwright/arch")) -}}
{{- include "voxwright.free" (dict "value" "service.labels" "names" (keys .Values.service.labels) "taken" (list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" "voxwright/metrics")) -}}
{{- $variables := list "SM_BATCH_MODE" "SM_OPERATING_POINT" "VOXWRIGHT_ENGINES" "VOXWRIGHT_TRUSTED_KEY" "VOXWRIGHT_THREADS" "VOXWRIGHT_GRPC_CERTIFICATE" "VOXWRIGHT_GRPC_KEY" "VOXWRIGHT_GRPC_CLIENT_CA" "VOXWRIGHT_HTTP_ADDRESS" "VOXWRIGHT_GRPC_ADDRESS" "VOXWRIGHT_METRICS_ADDRESS" "VOXWRIGHT_HTTP_PORT" "VOXWRIGHT_GRPC_PORT" "VOXWRIGHT_METRICS_PORT" -}}
{{- $volumes := list "scratch" "engines" "licence" "keys" "shared-memory" "tls" -}}
{{- $paths := list "/tmp" "/engines" "/license.json" "/keys" "/dev/shm" "/tls" -}}
{{- include "voxwright.free" (dict "value" "extraEnv" "names" (include "voxwright.column" (dict "rows" .Values.extraEnv "key" "name") | fromJsonArray) "taken" $variables) -}}
{{- include "voxwright.free" (dict "value" "extraVolumes" "names" (include "voxwright.column" (dict "rows" .Values.extraVolumes "key" "name") | fromJsonArray) "taken" $volumes) -}}
{{- include "voxwright.free" (dict "value" "extraVolumeMounts" "names" (include "voxwright.column" (dict "rows" .Values.extraVolumeMounts "key" "mountPath") | fromJsonArray) "taken" $paths) -}}
{{- $open := and (has .Values.service.type (list "NodePort" "LoadBalancer")) .Values.networkPolicy.enabled -}}
{{- if and $open (not .Values.networkPolicy.moreClients) -}}
{{- fail (printf "service.type: with %s clients come from outside, and the NetworkPolicy admits none of them. Name them in networkPolicy.moreClients, for example - ipBlock: {cidr: 10.0.0.0/8}." .Values.service.type) -}}
{{- end -}}
{{- end -}}

{{- define "voxwright.validateApplications" -}}
{{- $values := .Values.applications -}}
{{- if not $values.keys.secretName -}}
{{- fail "applications.keys.secretName: it is empty, and the service demands API keys. Name a Secret with the key api-keys." -}}
{{- end -}}
{{- if and (gt (int $values.replicas) 1) (not $values.database.secretName) -}}
{{- fail "applications.replicas: several services share one PostgreSQL database. Name its Secret in applications.database.secretName, or use one." -}}
{{- end -}}
{{- if and $values.storage.volume $values.storage.url -}}
{{- fail "applications.storage: volume and url are both set. Remove one of them." -}}
{{- end -}}
{{- if not (or $values.storage.volume $values.storage.url) -}}
{{- fail "applications.storage: recordings and transcripts have no place. Set volume, for example --set applications.storage.volume.persistentVolumeClaim.claimName=voxwright-jobs." -}}
{{- end -}}
{{- if and $values.storage.url (not $values.database.secretName) -}}
{{- fail "applications.storage.url: the database would be lost with the pod. Name PostgreSQL's Secret in applications.database.secretName, or set storage.volume." -}}
{{- end -}}
{{- if and $values.ingress.enabled (not $values.ingress.host) -}}
{{- fail "applications.ingress.host: it is empty. Name the host at which clients reach the service." -}}
{{- end -}}
{{- $variables := list "VOXWRIGHT_SERVICE_ENDPOINT" "SM_INFERENCE_ENDPOINT" "VOXWRIGHT_SERVICE_REALTIME_ENDPOINT" "VOXWRIGHT_SERVICE_DRAIN" "VOXWRIGHT_SERVICE_API_KEYS" "VOXWRIGHT_SERVICE_PORT" "VOXWRIGHT_SERVICE_DATABASE" "VOXWRIGHT_SERVICE_STORAGE" "VOXWRIGHT_SERVICE_TLS_CERTIFICATE" "VOXWRIGHT_SERVICE_TLS_KEY" "VOXWRIGHT_CA" "VOXWRIGHT_CLIENT_CERTIFICATE" "VOXWRIGHT_CLIENT_KEY" "VOXWRIGHT_HEADERS" -}}
{{- $taken := dict "nodeSelector" (list "kubernetes.io/arch") "podLabels" (list "app.kubernetes.io/name" "app.kubernetes.io/instance" "app.kubernetes.io/component" "app.kubernetes.io/version" "voxwright/client") -}}
{{- range $value, $names := $taken -}}
{{- include "voxwright.free" (dict "value" (printf "applications.%s" $value) "names" (keys (index $values $value)) "taken" $names) -}}
{{- end -}}
{{- include "voxwright.free" (dict "value" "applications.extraEnv" "names" (include "voxwright.column" (dict "rows" $values.extraEnv "key" "name") | fromJsonArray) "taken" $variables) -}}
{{- include "voxwright.free" (dict "value" "applications.extraVolumes" "names" (include "voxwright.column" (dict "rows" $values.extraVolumes "key" "name") | fromJsonArray) "taken" (list "scratch" "api-keys" "data" "tls" "servers-tls")) -}}
{{- include "voxwright.free" (dict "value" "applications.extraVolumeMounts" "names" (include "voxwright.column" (dict "rows" $values.extraVolumeMounts "key" "mountPath") | fromJsonArray) "taken" (list "/tmp" "/run/secrets/api-keys" "/data" "/tls" "/servers-tls")) -}}
{{- end -}}

{{/* The variables of a client of the servers (docs/network.md). Takes tls and headers; the files are in /servers-tls. */}}
{{- define "voxwright.clientVariables" -}}
{{- if .tls.secretName -}}
- name: VOXWRIGHT_CA
  value: /servers-tls/ca.crt
{{- if .tls.clientCertificate }}
- name: VOXWRIGHT_CLIENT_CERTIFICATE
  value: /servers-tls/tls.crt
- name: VOXWRIGHT_CLIENT_KEY
  value: /servers-tls/tls.key
{{- end }}
{{- end }}
{{- with .headers.secretName }}
- name: VOXWRIGHT_HEADERS
  valueFrom:
    secretKeyRef:
      name: {{ . | quote }}
      key: headers
{{- end }}
{{- end -}}

{{/* Fail where a value names what the chart sets itself. Takes value, names and taken. */}}
{{- define "voxwright.free" -}}
{{- $seen := list -}}
{{- range .names -}}
{{- if has . $.taken -}}
{{- fail (printf "%s: the chart itself sets %s. Remove it, and use the chart's own value for it, if there is one." $.value .) -}}
{{- end -}}
{{- if has . $seen -}}
{{- fail (printf "%s: %s is in it twice. Remove one of them." $.value .) -}}
{{- end -}}
{{- $seen = append $seen . -}}
{{- end -}}
{{- end -}}

{{/* One field of every row, as a JSON array; a path without a slash at its end. Takes rows and key. */}}
{{- define "voxwright.column" -}}
{{- $found := list -}}
{{- range .rows -}}
{{- $field := index . $.key -}}
{{- $found = append $found (ternary (clean $field) $field (eq $.key "mountPath")) -}}
{{- end -}}
{{- $found | toJson -}}
{{- end -}}

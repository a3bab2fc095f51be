{{/* Compute capabilities of contract/arch.py (a test compares them): [major, minor], empty for the CPU. */}}
{{- define "voxwright.capabilities" -}}
{"cpu": [], "sm75": ["7", "5"], "sm80": ["8", "0"], "sm86": ["8", "6"], "sm89": ["8", "9"], "sm90": ["9", "0"]}
{{- end -}}

{{/* The labels that all servers of a release have, for every architecture. */}}
{{- define "voxwright.selector" -}}
app.kubernetes.io/name: voxwright
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
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
{{- end -}}

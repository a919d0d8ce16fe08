{{/* Names, labels and the parts that operator and gateway share. */}}

{{- define "octavo.fullname" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* octavo.name (list $ "gateway") */}}
{{- define "octavo.name" -}}
{{- printf "%s-%s" (include "octavo.fullname" (index . 0)) (index . 1) -}}
{{- end -}}

{{/* octavo.selector (list $ "gateway") */}}
{{- define "octavo.selector" -}}
app.kubernetes.io/name: octavo
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* octavo.labels (list $ "gateway") */}}
{{- define "octavo.labels" -}}
{{- $ := index . 0 -}}
{{ include "octavo.selector" . }}
app.kubernetes.io/part-of: octavo
app.kubernetes.io/version: {{ $.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $.Chart.Name $.Chart.Version | replace "+" "_" }}
{{- with $.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The body of metadata, name left out: octavo.metadata (list $ "gateway" [annotations…]) */}}
{{- define "octavo.metadata" -}}
{{- $ := index . 0 -}}
labels:
  {{- include "octavo.labels" (list $ (index . 1)) | nindent 2 }}
{{- $annotations := deepCopy $.Values.commonAnnotations -}}
{{- range (slice . 2) }}{{ $annotations = merge (deepCopy .) $annotations }}{{ end -}}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* octavo.image (list $ $.Values.control.image) */}}
{{- define "octavo.image" -}}
{{- $ := index . 0 -}}{{- $image := index . 1 -}}
{{- if $image.digest -}}
{{ $image.repository }}@{{ $image.digest }}
{{- else -}}
{{ $image.repository }}:{{ $image.tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* octavo.serviceAccount (list $ "gateway") */}}
{{- define "octavo.serviceAccount" -}}
{{- $account := (index (index . 0).Values (index . 1)).serviceAccount -}}
{{- $account.name | default (ternary (include "octavo.name" .) "default" $account.create) -}}
{{- end -}}

{{/* The environment of operator and gateway: octavo.env (list $ "gateway") */}}
{{- define "octavo.env" -}}
{{- $ := index . 0 -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
{{- with $.Values.otel.endpoint }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ . | quote }}
- name: OTEL_EXPORTER_OTLP_PROTOCOL
  value: {{ $.Values.otel.protocol | quote }}
{{- end }}
{{- range $name, $value := $.Values.otel.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- with (index $.Values (index . 1)).extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Where a pod goes: octavo.placement (list $ "gateway") */}}
{{- define "octavo.placement" -}}
{{- $values := index (index . 0).Values (index . 1) -}}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Annotations of a pod, as one object: its own and everybody's. */}}
{{- define "octavo.podAnnotations" -}}
{{- merge (deepCopy (index (index . 0).Values (index . 1)).podAnnotations) (index . 0).Values.commonAnnotations | toYaml -}}
{{- end -}}

{{/*
Grants rules where they hold: in the whole cluster, or by a Role in each of watchNamespaces.
octavo.grant (list $ "gateway" "rules as YAML")
*/}}
{{- define "octavo.grant" -}}
{{- $ := index . 0 -}}{{- $part := index . 1 -}}{{- $rules := index . 2 -}}
{{- $name := include "octavo.name" (list $ $part) -}}
{{- range $namespace := ($.Values.watchNamespaces | default (list "")) }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ ternary "Role" "ClusterRole" (ne $namespace "") }}
metadata:
  name: {{ $name }}
  {{- with $namespace }}
  namespace: {{ . }}
  {{- end }}
  {{- include "octavo.metadata" (list $ $part) | nindent 2 }}
rules:
  {{- $rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ ternary "RoleBinding" "ClusterRoleBinding" (ne $namespace "") }}
metadata:
  name: {{ $name }}
  {{- with $namespace }}
  namespace: {{ . }}
  {{- end }}
  {{- include "octavo.metadata" (list $ $part) | nindent 2 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ ternary "Role" "ClusterRole" (ne $namespace "") }}
  name: {{ $name }}
subjects:
  - kind: ServiceAccount
    name: {{ include "octavo.serviceAccount" (list $ $part) }}
    namespace: {{ $.Release.Namespace }}
{{- end }}
{{- end -}}

{{- /* Labels of an object. At installation Helm writes itself as managed-by, whatever a chart says. */ -}}
{{- define "exfm.labels" -}}
app.kubernetes.io/name: exfm
app.kubernetes.io/component: {{ . }}
app.kubernetes.io/part-of: exfm
app.kubernetes.io/managed-by: Helm
{{- end -}}

{{- /* Name, namespace and labels of an object; the argument is (list ROOT NAME COMPONENT). */ -}}
{{- define "exfm.metadata" -}}
name: {{ index . 1 }}
namespace: {{ (index . 0).Values.namespace.name }}
labels:
  {{- include "exfm.labels" (index . 2) | nindent 2 }}
{{- end -}}

{{- /* What every container of ours is held to. */ -}}
{{- define "exfm.securityContext" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
readOnlyRootFilesystem: true
runAsNonRoot: true
runAsUser: 10001
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- /* A selector of one component's pods; then one of rankers' and shards' together. */ -}}
{{- define "exfm.pods" -}}
matchLabels:
  app.kubernetes.io/name: exfm
  app.kubernetes.io/component: {{ . }}
{{- end -}}
{{- define "exfm.servers" -}}
matchLabels:
  app.kubernetes.io/name: exfm
matchExpressions:
  - key: app.kubernetes.io/component
    operator: In
    values: [ranker, shard]
{{- end -}}

{{- define "exfm.image" -}}
{{ .Values.image.repository }}:{{ .Values.gpu.enabled | ternary .Values.gpu.imageTag .Values.image.tag }}
{{- end -}}

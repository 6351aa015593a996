{{- /* Labels of an object. Helm itself sets managed-by to Helm when it installs a chart. */ -}}
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

{{- /* The security context of every container of exfm. */ -}}
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

{{- /* "true" where a component's servers have a GPU, else nothing; the argument is (list ROOT COMPONENT). */ -}}
{{- define "exfm.hasGpu" -}}
{{- $gpu := (index . 0).Values.gpu -}}
{{- if hasKey $gpu "enabled" -}}
{{- fail "gpu.enabled is no longer a value: set gpu.servers=ranker, or all, or none" -}}
{{- end -}}
{{- if or (eq $gpu.servers "all") (eq $gpu.servers (index . 1)) -}}
true
{{- end -}}
{{- end -}}

{{- /* The image of a component's servers; then the nodes that they go to. The argument is (list ROOT COMPONENT). */ -}}
{{- define "exfm.image" -}}
{{- $values := (index . 0).Values -}}
{{ $values.image.repository }}:{{ include "exfm.hasGpu" . | empty | ternary $values.image.tag $values.gpu.imageTag }}
{{- end -}}
{{- define "exfm.nodes" -}}
{{- $nodes := pick (deepCopy (index (index . 0).Values (index . 1))) "nodeSelector" "tolerations" "affinity" -}}
{{- if include "exfm.hasGpu" . -}}
{{- $toleration := dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule" -}}
{{- $_ := set $nodes "nodeSelector" (merge $nodes.nodeSelector (dict "nvidia.com/gpu.present" "true")) -}}
{{- $_ := set $nodes "tolerations" (append $nodes.tolerations $toleration) -}}
{{- end -}}
{{- range $field, $value := $nodes }}
{{- with $value }}
{{ $field }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{- /* A list of values as YAML. A name that exfm uses itself is an error. The argument is (list ROOT COMPONENT FIELD TAKEN). */ -}}
{{- define "exfm.more" -}}
{{- $component := index . 1 -}}
{{- $field := index . 2 -}}
{{- $items := index (index . 0).Values $component $field -}}
{{- range $items -}}
{{- if has .name (index $ 3) -}}
{{- fail (printf "%s.%s has the name %s, which exfm uses itself: choose another name, or see the chart's other values" $component $field .name) -}}
{{- end -}}
{{- end -}}
{{- with $items -}}
{{- toYaml . -}}
{{- end -}}
{{- end -}}

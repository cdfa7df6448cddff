{{/* The Pod, the same for a Deployment and a DaemonSet. */}}

{{- define "pierhead.podSecurityContext" -}}
{{- $context := dict "runAsNonRoot" true "seccompProfile" .Values.controller.image.seccompProfile -}}
{{- if include "pierhead.privilegedPort" . }}{{ $_ := unset $context "runAsNonRoot" }}{{ end -}}
{{- with include "pierhead.sysctls" . | fromYaml -}}
{{- $sysctls := list -}}
{{- range $name, $value := . }}{{ $sysctls = append $sysctls (dict "name" $name "value" $value) }}{{ end -}}
{{- $_ := set $context "sysctls" $sysctls -}}
{{- end -}}
{{- mergeOverwrite $context (deepCopy .Values.controller.podSecurityContext) | toYaml -}}
{{- end -}}

{{- define "pierhead.containerSecurityContext" -}}
{{- $image := .Values.controller.image -}}
{{- $root := eq (include "pierhead.privilegedPort" .) "true" -}}
{{- if .Values.controller.containerSecurityContext -}}
{{- toYaml .Values.controller.containerSecurityContext -}}
{{- else -}}
runAsNonRoot: {{ ternary (not $root) $image.runAsNonRoot (kindIs "invalid" $image.runAsNonRoot) }}
runAsUser: {{ ternary (ternary 0 65532 $root) $image.runAsUser (kindIs "invalid" $image.runAsUser) | int64 }}
runAsGroup: {{ $image.runAsGroup | int64 }}
allowPrivilegeEscalation: {{ $image.allowPrivilegeEscalation }}
readOnlyRootFilesystem: {{ $image.readOnlyRootFilesystem }}
seccompProfile:
  {{- toYaml $image.seccompProfile | nindent 2 }}
capabilities:
  drop: [ALL]
  {{- if $root }}
  add: [NET_BIND_SERVICE]
  {{- end }}
{{- end -}}
{{- end -}}

{{- define "pierhead.spread" -}}
{{- $all := list -}}
{{- range .Values.controller.topologySpreadConstraints -}}
{{- $own := dict "labelSelector" (dict "matchLabels" (include "pierhead.selector" $ | fromYaml)) -}}
{{- $all = append $all (ternary . (merge (deepCopy .) $own) (hasKey . "labelSelector")) -}}
{{- end -}}
{{- tpl (toYaml $all) . -}}
{{- end -}}

{{- define "pierhead.probe" -}}
httpGet:
  path: {{ .path }}
  port: {{ .root.Values.controller.metrics.portName }}
{{ toYaml .probe }}
{{- end -}}

{{- define "pierhead.env" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
{{- if .Values.controller.enableTopologyAwareRouting }}
- name: PIERHEAD_ZONE
  valueFrom:
    fieldRef:
      fieldPath: metadata.labels['topology.kubernetes.io/zone']
{{- end }}
{{- with .Values.controller.extraEnvs }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "pierhead.container" -}}
{{- $controller := .Values.controller -}}
name: {{ $controller.containerName }}
image: {{ include "pierhead.image" . | quote }}
imagePullPolicy: {{ $controller.image.pullPolicy }}
args:
  - serve
  {{- range $name, $value := include "pierhead.flags" . | fromYaml }}
  - {{ ternary (printf "--%s" $name) (printf "--%s=%s" $name $value) (eq $value "") | quote }}
  {{- end }}
env:
  {{- include "pierhead.env" . | nindent 2 }}
ports:
  {{- include "pierhead.containerPorts" . | nindent 2 }}
livenessProbe:
  {{- include "pierhead.probe" (dict "root" . "path" "/livez" "probe" $controller.livenessProbe) | nindent 2 }}
readinessProbe:
  {{- include "pierhead.probe" (dict "root" . "path" "/readyz" "probe" $controller.readinessProbe) | nindent 2 }}
{{- with $controller.startupProbe }}
startupProbe:
  {{- include "pierhead.probe" (dict "root" $ "path" "/readyz" "probe" .) | nindent 2 }}
{{- end }}
{{- with $controller.lifecycle }}
lifecycle:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $controller.resources }}
resources:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $controller.resizePolicy }}
resizePolicy:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "pierhead.containerSecurityContext" . | nindent 2 }}
{{- with $controller.extraVolumeMounts }}
volumeMounts:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "pierhead.podMetadata" -}}
labels:
  {{- $labels := merge (include "pierhead.selector" . | fromYaml) (deepCopy .Values.controller.podLabels) (include "pierhead.labels" . | fromYaml) }}
  {{- toYaml $labels | nindent 2 }}
{{- with .Values.controller.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "pierhead.pod" -}}
{{- $controller := .Values.controller -}}
serviceAccountName: {{ include "pierhead.serviceAccountName" . }}
automountServiceAccountToken: {{ .Values.serviceAccount.automountServiceAccountToken }}
# Or the Service named pierhead would add PIERHEAD_* variables, which are how settings are given.
enableServiceLinks: false
terminationGracePeriodSeconds: {{ include "pierhead.gracePeriod" . }}
{{- with concat .Values.imagePullSecrets (dig "imagePullSecrets" list .Values.global) }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "pierhead.podSecurityContext" . | nindent 2 }}
{{- if $controller.hostNetwork }}
hostNetwork: true
{{- end }}
{{- if $controller.shareProcessNamespace }}
shareProcessNamespace: true
{{- end }}
dnsPolicy: {{ default (ternary "ClusterFirstWithHostNet" "ClusterFirst" $controller.hostNetwork) $controller.dnsPolicy }}
{{- with include "pierhead.given" (list $controller (list "dnsConfig" "hostAliases" "runtimeClassName" "priorityClassName" "nodeSelector" "tolerations")) }}
{{- . | nindent 0 }}
{{- end }}
{{- with $controller.affinity }}
affinity:
  {{- tpl (toYaml .) $ | nindent 2 }}
{{- end }}
{{- if $controller.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- include "pierhead.spread" . | nindent 2 }}
{{- end }}
{{- with $controller.extraInitContainers }}
initContainers:
  {{- toYaml . | nindent 2 }}
{{- end }}
containers:
  - {{ include "pierhead.container" . | nindent 4 | trim }}
  {{- with $controller.extraContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $controller.extraVolumes }}
volumes:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

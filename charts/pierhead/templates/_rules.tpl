{{/* What Pierhead may do, as src/sources/kubernetes/rights.rs names it: it reads what it routes by, and writes nothing
     but status, Events and its own Lease. */}}

{{/* In each watched namespace. */}}
{{- define "pierhead.rules.watched" -}}
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [list, watch]
# Secrets are listed by the field selector type=kubernetes.io/tls; RBAC cannot say so. Of ConfigMaps only certification
# authorities (the key ca.crt) are kept.
- apiGroups: [""]
  resources: [services, secrets, configmaps]
  verbs: [list, watch]
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [list, watch]
- apiGroups: [pierhead.dev]
  resources: [backendpolicies]
  verbs: [list, watch]
# Written by the leader only.
- apiGroups: [networking.k8s.io]
  resources: [ingresses/status]
  verbs: [patch]
- apiGroups: [pierhead.dev]
  resources: [backendpolicies/status]
  verbs: [patch]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}

{{/* Of kinds without a namespace. */}}
{{- define "pierhead.rules.cluster" -}}
- apiGroups: [networking.k8s.io]
  resources: [ingressclasses]
  verbs: [list, watch]
{{- if and (not .Values.controller.scope.enabled) .Values.controller.scope.namespaceSelector }}
- apiGroups: [""]
  resources: [namespaces]
  verbs: [list, watch]
{{- end }}
{{- end -}}

{{/* In the namespace of the Lease. */}}
{{- define "pierhead.rules.lease" -}}
# RBAC cannot limit `create` by name.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ get (include "pierhead.flags" . | fromYaml) "lease-name" }}]
  verbs: [get, patch]
{{- end -}}

{{/* Single objects that a scoped controller reads outside the namespaces that it watches, as a list in YAML of
     namespace, resource and name. */}}
{{- define "pierhead.singles" -}}
{{- $flags := include "pierhead.flags" . | fromYaml -}}
{{- $watched := include "pierhead.namespaces" . | fromYamlArray -}}
{{- $singles := list -}}
{{- range $flag, $resource := dict "publish-service" "services" "default-certificate" "secrets" -}}
{{- $parts := get $flags $flag | replace "$(POD_NAMESPACE)" (include "pierhead.namespace" $) | splitList "/" -}}
{{- if and (eq (len $parts) 2) (not (has (first $parts) $watched)) -}}
{{- $singles = append $singles (dict "namespace" (first $parts) "resource" $resource "name" (last $parts)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $singles -}}
{{- end -}}

{{/* A Role and its binding: (dict "root" $ "name" … "namespace" … "rules" …). */}}
{{- define "pierhead.role" -}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
{{ include "pierhead.metadata" (dict "root" .root "name" .name "namespace" .namespace "labels" (list .root.Values.controller.labels)) }}
rules:
  {{- .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
{{ include "pierhead.metadata" (dict "root" .root "name" .name "namespace" .namespace "labels" (list .root.Values.controller.labels)) }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ .name }}
subjects:
  {{- include "pierhead.subject" .root | nindent 2 }}
{{- end -}}

{{- define "pierhead.subject" -}}
- kind: ServiceAccount
  name: {{ include "pierhead.serviceAccountName" . }}
  namespace: {{ include "pierhead.namespace" . }}
{{- end -}}

{{/* An installation in each of several namespaces has a ClusterRole of its own. */}}
{{- define "pierhead.clusterRoleName" -}}
{{- $name := include "pierhead.fullname" . -}}
{{- ternary $name (printf "%s-%s" (include "pierhead.namespace" .) $name) (eq (include "pierhead.namespace" .) $name) -}}
{{- end -}}

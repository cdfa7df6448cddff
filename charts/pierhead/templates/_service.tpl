{{/* A Service for traffic: (dict "root" $ "name" … "values" … "labels" (list …)). `values` has the shape of
     controller.service; the inner Service inherits type, ports and targetPorts where it has none. */}}
{{- define "pierhead.service" -}}
{{- $outer := .root.Values.controller.service -}}
{{- $values := .values -}}
{{- $type := default $outer.type $values.type -}}
{{- $reachable := has $type (list "LoadBalancer" "NodePort") -}}
apiVersion: v1
kind: Service
{{ include "pierhead.metadata" (dict "root" .root "name" .name "namespace" (include "pierhead.namespace" .root) "labels" .labels "annotations" $values.annotations) }}
spec:
  type: {{ $type }}
  {{- with include "pierhead.given" (list $values (list "clusterIP" "clusterIPs" "externalIPs" "sessionAffinity" "trafficDistribution" "ipFamilyPolicy" "ipFamilies")) }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- if eq $type "LoadBalancer" }}
  {{- with include "pierhead.given" (list $values (list "loadBalancerIP" "loadBalancerSourceRanges" "loadBalancerClass" "healthCheckNodePort")) }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- if not (kindIs "invalid" $values.allocateLoadBalancerNodePorts) }}
  allocateLoadBalancerNodePorts: {{ $values.allocateLoadBalancerNodePorts }}
  {{- end }}
  {{- end }}
  {{- if $reachable }}
  {{- with $values.externalTrafficPolicy }}
  externalTrafficPolicy: {{ . }}
  {{- end }}
  {{- end }}
  selector:
    {{- include "pierhead.selector" .root | nindent 4 }}
  ports:
    {{- range $name := list "http" "https" }}
    {{- if ternary $outer.enableHttp $outer.enableHttps (eq $name "http") }}
    - name: {{ $name }}
      port: {{ coalesce (get $values.ports $name) (get $outer.ports $name) }}
      targetPort: {{ coalesce (get $values.targetPorts $name) (get $outer.targetPorts $name) }}
      protocol: TCP
      {{- if $values.appProtocol }}
      appProtocol: {{ $name }}
      {{- end }}
      {{- if $reachable }}
      {{- with get $values.nodePorts $name }}
      nodePort: {{ int . }}
      {{- end }}
      {{- end }}
    {{- end }}
    {{- end }}
{{- end -}}

{{/* What the hook applies: labels of the namespace, stores, and the LaminaCluster. */}}
{{- define "lamina.cluster" -}}
{{- $v := .Values -}}
{{- if $v.podSecurity.labelNamespace }}
apiVersion: v1
kind: Namespace
metadata:
  name: {{ .Release.Namespace }}
  labels:
    pod-security.kubernetes.io/enforce: privileged
    pod-security.kubernetes.io/audit: privileged
    pod-security.kubernetes.io/warn: privileged
---
{{- end }}
{{- range $v.stores }}
apiVersion: lamina.dev/v1alpha1
kind: Store
metadata:
  name: {{ .name }}
  labels: {{- include "lamina.labels" (list $ "store") | nindent 4 }}
spec:
  url: {{ .url | quote }}
  {{- with .secretName }}
  secretRef: {name: {{ . }}}
  {{- end }}
  {{- with .shardRange }}
  shardRange: {{ . | quote }}
  {{- end }}
---
{{- end }}
apiVersion: lamina.dev/v1alpha1
kind: LaminaCluster
metadata:
  name: default
  labels: {{- include "lamina.labels" (list . "cluster") | nindent 4 }}
spec:
  image: {{ include "lamina.image" . }}
  imagePullPolicy: {{ $v.image.pullPolicy }}
  {{- include "lamina.pullSecrets" . | nindent 2 }}
  {{- with $v.stores }}
  stores:
    {{- range . }}
    - {{ .name }}
    {{- end }}
  {{- end }}
  {{- with $v.startupTaint }}
  startupTaint: {{ . }}
  {{- end }}
  {{- with include "lamina.authoritySecret" . }}
  authoritySecret: {name: {{ . }}}
  {{- end }}
  node:
    kubeletDir: {{ $v.kubeletDir }}
    logLevel: {{ $v.logLevel }}
    {{- with $v.node.cacheBytesMax }}
    cacheBytesMax: {{ . | toString | quote }}
    {{- end }}
    {{- with $v.node.layersBytesMax }}
    layersBytesMax: {{ . | toString | quote }}
    {{- end }}
    {{- with $v.node.insecureRegistries }}
    insecureRegistries: {{- toYaml . | nindent 6 }}
    {{- end }}
    placement: {{- include "lamina.workload" $v.node | nindent 6 }}
  csi: {{- include "lamina.workload" $v.csi | nindent 4 }}
  controller:
    replicas: {{ $v.controller.replicas }}
    placement: {{- include "lamina.workload" $v.controller | nindent 6 }}
  discovery:
    enabled: {{ $v.discovery.enabled }}
    replicas: {{ $v.discovery.replicas }}
    ttl: {{ $v.discovery.ttl }}
    placement: {{- include "lamina.workload" $v.discovery | nindent 6 }}
  execution:
    enabled: {{ $v.execution.enabled }}
    afslet:
      {{- with $v.execution.afslet.cpus }}
      cpus: {{ . }}
      {{- end }}
      {{- with $v.execution.afslet.memory }}
      memory: {{ . | toString | quote }}
      {{- end }}
      timeoutMax: {{ $v.execution.afslet.timeoutMax }}
      allowHostNetwork: {{ $v.execution.afslet.allowHostNetwork }}
      placement: {{- include "lamina.workload" $v.execution.afslet | nindent 8 }}
    proxy:
      replicas: {{ $v.execution.proxy.replicas }}
      placement: {{- include "lamina.workload" $v.execution.proxy | nindent 8 }}
{{- end -}}

{{/* The Secret with a CA that somebody else makes; empty: the operator makes its own. */}}
{{- define "lamina.authoritySecret" -}}
{{- $given := .Values.tls.authoritySecret -}}
{{- if .Values.tls.certManager.issuerRef.name -}}
{{- if $given -}}
{{- fail "tls.authoritySecret and tls.certManager.issuerRef.name exclude each other: the CA has one maker" -}}
{{- end -}}
lamina-given-ca
{{- else -}}
{{ $given }}
{{- end -}}
{{- end -}}

{{/* Where and with how much a workload of a LaminaCluster runs. */}}
{{- define "lamina.workload" -}}
{{- with .resources.requests }}
requests:
{{- range $name, $amount := . }}
  {{ $name }}: {{ $amount | toString | quote }}
{{- end }}
{{- end }}
{{- with .resources.limits }}
limits:
{{- range $name, $amount := . }}
  {{ $name }}: {{ $amount | toString | quote }}
{{- end }}
{{- end }}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .podAnnotations }}
podAnnotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .env }}
env: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* The container image all workloads run. */}}
{{- define "lamina.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ $tag }}
{{- end -}}
{{- end -}}

{{/* Labels of an object; call with (list . "component"). */}}
{{- define "lamina.labels" -}}
{{- $root := index . 0 -}}
helm.sh/chart: {{ $root.Chart.Name }}-{{ $root.Chart.Version | replace "+" "_" }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: lamina
{{ include "lamina.selector" (index . 1) }}
{{- end -}}

{{/* What pods of a component carry, also those the operator makes. */}}
{{- define "lamina.selector" -}}
app.kubernetes.io/name: lamina
app.kubernetes.io/component: {{ . }}
{{- end -}}

{{/* Meets the Pod Security Standard `restricted`. */}}
{{- define "lamina.restrictedPod" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "lamina.restrictedContainer" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{- define "lamina.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Where a Deployment's pods go; call with its values. */}}
{{- define "lamina.placement" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with .affinity }}
affinity: {{ toJson . }}
{{- end }}
{{- end -}}

{{/* The pod of NOTES.txt, as it is pasted. */}}
{{- define "lamina.firstPod" -}}
apiVersion: v1
kind: Pod
metadata: {name: first-volume}
spec:
  restartPolicy: Never
  containers:
    - name: main
      image: {{ .Values.example.podImage }}
      command: [sh, -c, "ls /data && du -sh /data/usr 2>/dev/null"]
      volumeMounts: [{name: data, mountPath: /data}]
  volumes:
    - name: data
      csi:
        driver: csi.lamina.dev
        volumeAttributes:
          lamina.dev/image: {{ .Values.example.volumeImage }}
{{- end -}}

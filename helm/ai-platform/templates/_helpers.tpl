{{- define "ft.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "ft.labels" -}}
app.kubernetes.io/name: fallthrough
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "ft.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "ft.env" -}}
- {name: FALLTHROUGH_DRAIN_SECONDS, value: {{ .Values.drainSeconds | quote }}}
{{- if .Values.valkey.enabled }}
- {name: FALLTHROUGH_REDIS_URL, value: "redis://{{ .Release.Name }}-valkey:6379/0"}
{{- end }}
{{- if and .Values.maxServe.enabled (not .Values.settings.GPU_URL) }}
- {name: FALLTHROUGH_GPU_URL, value: "http://{{ .Release.Name }}-max-serve:8000"}
{{- end }}
{{- if and .Values.ollama.enabled (not .Values.settings.CPU_URL) }}
- {name: FALLTHROUGH_CPU_URL, value: "http://{{ .Release.Name }}-ollama:11434"}
{{- end }}
{{- if .Values.allowNoKeys }}
- {name: FALLTHROUGH_ALLOW_NO_KEYS, value: "1"}
{{- end }}
{{- range $name, $value := .Values.settings }}
{{- if ne (toString $value) "" }}
- {name: FALLTHROUGH_{{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{/* One part's pod. Call with a dict: root, part, command, port, env, resources, probed (paths). */}}
{{- define "ft.pod" -}}
{{- $v := .root.Values }}
metadata:
  labels:
    {{- include "ft.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .part }}
spec:
  automountServiceAccountToken: false
  serviceAccountName: {{ .root.Release.Name }}-fallthrough
  terminationGracePeriodSeconds: {{ $v.terminationGracePeriodSeconds }}
  securityContext: {runAsNonRoot: true, runAsUser: 10001, fsGroup: 10001, seccompProfile: {type: RuntimeDefault}}
  {{- with $v.imagePullSecrets }}
  imagePullSecrets: {{ toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ .part }}
      image: {{ include "ft.image" .root }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      command: {{ toJson .command }}
      ports: [{name: http, containerPort: {{ .port }}}]
      env:
        {{- include "ft.env" .root | nindent 8 }}
        {{- range $name, $value := .env }}
        - {name: {{ $name }}, value: {{ $value | quote }}}
        {{- end }}
      {{- with $v.existingSecret }}
      envFrom: [{secretRef: {name: {{ . }}}}]
      {{- end }}
      securityContext: {{- include "ft.security" .root | nindent 8 }}
      resources: {{- toYaml .resources | nindent 8 }}
      lifecycle: {preStop: {exec: {command: [sleep, {{ $v.preStopSeconds | quote }}]}}}
      startupProbe: {{- toYaml $v.probes.startup | nindent 8 }}
        httpGet: {path: {{ .alive }}, port: http}
      livenessProbe: {{- toYaml $v.probes.liveness | nindent 8 }}
        httpGet: {path: {{ .alive }}, port: http}
      readinessProbe: {{- toYaml $v.probes.readiness | nindent 8 }}
        httpGet: {path: {{ .ready }}, port: http}
      volumeMounts: [{name: tmp, mountPath: /tmp}, {name: data, mountPath: /data}]
  volumes:
    - {name: tmp, emptyDir: {}}
    {{- if and $v.files.persistentVolume.enabled (ne .part "flower") }}
    - {name: data, persistentVolumeClaim: {claimName: {{ .root.Release.Name }}-files}}
    {{- else }}
    - {name: data, emptyDir: {}}
    {{- end }}
{{- end }}

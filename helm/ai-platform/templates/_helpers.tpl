{{- define "ft.image" -}}
{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{- define "ft.labels" -}}
app.kubernetes.io/name: fallthrough
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* What finds a part's pods. Call with (list root part). */}}
{{- define "ft.selector" -}}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* The API's names are those of the quick start. Call with (list root part). */}}
{{- define "ft.name" -}}
{{ if eq (index . 1) "api-server" }}api-server{{ else }}{{ (index . 0).Release.Name }}-{{ index . 1 }}{{ end }}
{{- end }}

{{- define "ft.secret" -}}
{{ .Values.existingSecret | default (printf "%s-keys" .Release.Name) }}
{{- end }}

{{/* The bytes of an amount of memory, as Kubernetes writes it or as Valkey does (mb); empty: neither. */}}
{{- define "ft.bytes" -}}
{{- $units := dict "" 1 "kb" 1024 "mb" 1048576 "gb" 1073741824 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824
  "Ti" 1099511627776 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 }}
{{- $text := kindIs "string" . | ternary . (toJson .) }}
{{- $number := regexFind "^[0-9]+([.][0-9]+)?" $text }}
{{- $unit := trimPrefix $number $text }}
{{- if and $number (hasKey $units $unit) }}{{ mulf (float64 $number) (get $units $unit) }}{{ end }}
{{- end }}

{{- define "ft.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
runAsNonRoot: true
capabilities: {drop: [ALL]}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "ft.podSecurity" -}}
{runAsNonRoot: true, runAsUser: {{ . }}, runAsGroup: {{ . }}, fsGroup: {{ . }}, fsGroupChangePolicy: OnRootMismatch, seccompProfile: {type: RuntimeDefault}}
{{- end }}

{{/*
How a part's pods are replaced. The numbers are Kubernetes' own: as they stand here, a server-side
apply takes them away again when Recreate is wanted.
*/}}
{{- define "ft.strategy" -}}
type: {{ .Values.updateStrategy.type }}
{{- if eq .Values.updateStrategy.type "RollingUpdate" }}
rollingUpdate: {maxSurge: 25%, maxUnavailable: 25%}
{{- end }}
{{- end }}

{{/*
A variable from the Secret. Call with (list root variable key optional). Each is named, none comes
by envFrom: a part gets only what it needs, and refuses FALLTHROUGH_ variables that are no settings.
*/}}
{{- define "ft.fromSecret" }}
- name: {{ index . 1 }}
  valueFrom: {secretKeyRef: {name: {{ include "ft.secret" (index . 0) }}, key: {{ index . 2 }}, optional: {{ index . 3 }}}}
{{- end }}

{{/* The environment that all parts share. */}}
{{- define "ft.env" -}}
- {name: FALLTHROUGH_DRAIN_SECONDS, value: {{ .Values.drainSeconds | quote }}}
{{- if .Values.valkey.enabled }}
- {name: FALLTHROUGH_REDIS_URL, value: "redis://{{ .Release.Name }}-valkey:6379/0"}
{{- else if not .Values.settings.REDIS_URL }}
{{- include "ft.fromSecret" (list . "FALLTHROUGH_REDIS_URL" "FALLTHROUGH_REDIS_URL" false) }}
{{- end }}
{{- if not .Values.settings.BROKER_URL }}
{{- include "ft.fromSecret" (list . "FALLTHROUGH_BROKER_URL" "FALLTHROUGH_BROKER_URL" true) }}
{{- end }}
{{- if and .Values.maxServe.enabled (not .Values.settings.GPU_URL) }}
- {name: FALLTHROUGH_GPU_URL, value: "http://{{ .Release.Name }}-max-serve:8000"}
{{- end }}
{{- if and .Values.ollama.enabled (not .Values.settings.CPU_URL) }}
- {name: FALLTHROUGH_CPU_URL, value: "http://{{ .Release.Name }}-ollama:11434"}
{{- end }}
{{- range $name, $value := .Values.settings }}
{{- if ne (toString $value) "" }}
{{- /* A number as JSON has it: as text it would be 8.64e+07. */}}
- {name: FALLTHROUGH_{{ $name }}, value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}}
{{- end }}
{{- end }}
{{- end }}

{{/* What the API and the workers need to speak to model servers and to S3. */}}
{{- define "ft.upstreamEnv" }}
{{- range $tier := splitList "," (include "ft.tiers" .) }}
{{- $name := printf "FALLTHROUGH_%s_API_KEY" (upper $tier) }}
{{- include "ft.fromSecret" (list $ $name $name true) }}
{{- end }}
{{- range $name := list "AWS_ACCESS_KEY_ID" "AWS_SECRET_ACCESS_KEY" }}
{{- include "ft.fromSecret" (list $ $name $name true) }}
{{- end }}
{{- end }}

{{/* The names of the model tiers, parted by commas. */}}
{{- define "ft.tiers" -}}
{{- .Values.settings.TIERS | default "gpu,cpu" | nospace }}
{{- end }}

{{/* What only one part needs. Call with (list root part). */}}
{{- define "ft.ownEnv" }}
{{- $root := index . 0 }}
{{- $part := index . 1 }}
{{- if eq $part "flower" }}
{{- include "ft.fromSecret" (list $root "FLOWER_BASIC_AUTH" "FLOWER_BASIC_AUTH" false) }}
{{- else }}
{{- include "ft.upstreamEnv" $root }}
{{- end }}
{{- if eq $part "api-server" }}
{{- if $root.Values.allowNoKeys }}
- {name: FALLTHROUGH_ALLOW_NO_KEYS, value: "1"}
{{- else }}
{{- include "ft.fromSecret" (list $root "FALLTHROUGH_API_KEYS" "FALLTHROUGH_API_KEYS" (not (not $root.Values.settings.KEYS_FILE))) }}
{{- end }}
{{- else if hasPrefix "worker-" $part }}
- {name: FALLTHROUGH_WORKER_QUEUES, value: {{ trimPrefix "worker-" $part }}}
{{- end }}
{{- end }}

{{/* A probe of a part: its own, or the shared times. Call with (list own times path). */}}
{{- define "ft.probe" -}}
{{- with index . 0 }}
{{- toYaml . }}
{{- else }}
{{- toYaml (index . 1) }}
httpGet: {path: {{ index . 2 }}, port: http}
{{- end }}
{{- end }}

{{/*
One part's pod. Call with a dict: root, part, command, port, alive, ready (paths), resources, and
the probes liveness and readiness where they are its own.
*/}}
{{- define "ft.pod" -}}
{{- $v := .root.Values }}
metadata:
  labels:
    {{- include "ft.labels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .part }}
spec:
  automountServiceAccountToken: false
  # Else a Service named "fallthrough" would set FALLTHROUGH_PORT to something that is no port.
  enableServiceLinks: false
  serviceAccountName: {{ .root.Release.Name }}-fallthrough
  terminationGracePeriodSeconds: {{ $v.terminationGracePeriodSeconds }}
  securityContext: {{ include "ft.podSecurity" 10001 }}
  {{- with $v.imagePullSecrets }}
  imagePullSecrets: {{- toYaml . | nindent 4 }}
  {{- end }}
  containers:
    - name: {{ .part }}
      image: {{ include "ft.image" .root }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      command: {{ toJson .command }}
      ports: [{name: http, containerPort: {{ .port }}}]
      env:
        {{- include "ft.env" .root | nindent 8 }}
        {{- include "ft.ownEnv" (list .root .part) | indent 8 }}
      {{- with $v.extraEnvFrom }}
      envFrom: {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext: {{- include "ft.security" .root | nindent 8 }}
      resources: {{- toYaml .resources | nindent 8 }}
      lifecycle: {preStop: {exec: {command: [sleep, {{ $v.preStopSeconds | quote }}]}}}
      startupProbe: {{- include "ft.probe" (list dict $v.probes.startup .alive) | nindent 8 }}
      livenessProbe: {{- include "ft.probe" (list .liveness $v.probes.liveness .alive) | nindent 8 }}
      readinessProbe: {{- include "ft.probe" (list .readiness $v.probes.readiness .ready) | nindent 8 }}
      volumeMounts: [{name: tmp, mountPath: /tmp}, {name: data, mountPath: /data}]
  volumes:
    - {name: tmp, emptyDir: {sizeLimit: {{ $v.emptyDir.tmp }}}}
    {{- if and $v.files.persistentVolume.enabled (ne .part "flower") }}
    - {name: data, persistentVolumeClaim: {claimName: {{ .root.Release.Name }}-files}}
    {{- else }}
    - {name: data, emptyDir: {sizeLimit: {{ $v.emptyDir.data }}}}
    {{- end }}
{{- end }}

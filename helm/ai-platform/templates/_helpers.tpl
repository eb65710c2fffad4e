{{- define "ft.image" -}}
{{ with .Values.image.registry }}{{ . }}/{{ end }}{{ .Values.image.repository }}{{ if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* What every object's name begins with. */}}
{{- define "ft.fullname" -}}
{{ .Values.fullnameOverride | default .Release.Name }}
{{- end }}

{{- define "ft.labels" -}}
app.kubernetes.io/name: {{ .Values.nameOverride | default "fallthrough" }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* What finds a part's pods. Call with (list root part). */}}
{{- define "ft.selector" -}}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/*
The name of a part's objects. Call with (list root part). In a release that is named as the chart the
API has the name of the quick start; two releases in one namespace have different ones.
*/}}
{{- define "ft.name" -}}
{{- $root := index . 0 }}
{{- if ne (index . 1) "api-server" }}{{ include "ft.fullname" $root }}-{{ index . 1 }}
{{- else if $root.Values.apiServer.name }}{{ $root.Values.apiServer.name }}
{{- else if eq (include "ft.fullname" $root) $root.Chart.Name }}api-server
{{- else }}{{ include "ft.fullname" $root }}-api-server
{{- end }}
{{- end }}

{{/* Where the API is reached inside the cluster. */}}
{{- define "ft.apiUrl" -}}
http://{{ include "ft.name" (list . "api-server") }}.{{ .Release.Namespace }}.svc:{{ .Values.apiServer.service.port }}
{{- end }}

{{- define "ft.serviceAccount" -}}
{{ .Values.serviceAccount.name | default (.Values.serviceAccount.create | ternary (print (include "ft.fullname" .) "-fallthrough") "default") }}
{{- end }}

{{- define "ft.secret" -}}
{{ .Values.existingSecret | default (printf "%s-keys" (include "ft.fullname" .)) }}
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

{{/* What tells this release's series from another's under one Prometheus: labels, as JSON. */}}
{{- define "ft.seriesLabels" -}}
{{- $own := dict "namespace" .Release.Namespace "release" .Release.Name }}
{{- toJson (.Values.seriesLabels | default (.Values.serviceMonitor.enabled | ternary $own dict)) }}
{{- end }}

{{/* An expression that looks at this release's series alone. Call with (list root expression). */}}
{{- define "ft.ofRelease" -}}
{{- $labels := list }}
{{- range $name, $value := include "ft.seriesLabels" (index . 0) | fromJson }}
{{- $labels = append $labels (printf "%s=%q" $name $value) }}
{{- end }}
{{- $metric := "\\b((?:fallthrough|circuit_breaker|process)[_:][a-z0-9_:]+)" }}
{{- /* \x01 stands behind ours: a selector that follows is joined with it, and a label may hold a "}{". */}}
{{- $selector := join "," $labels | replace "$" "$$" | printf "${1}{%s}\x01" }}
{{- $found := regexReplaceAll $metric (index . 1) $selector | replace "}\x01{" "," | replace "\x01" "" }}
{{- empty $labels | ternary (index . 1) $found }}
{{- end }}

{{/*
How a part's pods are replaced. The numbers are Kubernetes' own: as they stand here, a server-side
apply takes them away again when Recreate is wanted. Overwritten, as `merge` takes a 0 for nothing.
*/}}
{{- define "ft.strategy" -}}
type: {{ .Values.updateStrategy.type }}
{{- if eq .Values.updateStrategy.type "RollingUpdate" }}
rollingUpdate: {{- toJson (mergeOverwrite (dict "maxSurge" "25%" "maxUnavailable" "25%") (.Values.updateStrategy.rollingUpdate | default dict)) | print " " }}
{{- end }}
{{- end }}

{{/*
A variable from the Secret. Call with (list root variable key optional). Each is named, none comes
by envFrom: a part gets only what it needs, and refuses FALLTHROUGH_ variables that are no settings.
*/}}
{{- define "ft.fromSecret" }}
{{- $from := include "ft.secretKey" (list (index . 0) (index . 2)) | fromYaml }}
- name: {{ index . 1 }}
  valueFrom: {secretKeyRef: {name: {{ $from.name }}, key: {{ $from.key }}, optional: {{ and (index . 3) (not (hasKey (index . 0).Values.secrets (index . 2))) }}}}
{{- end }}

{{/* Where a secret lies, as {name, key}. Call with (list root variable). */}}
{{- define "ft.secretKey" -}}
{{- $own := get (index . 0).Values.secrets (index . 1) | default dict -}}
{name: {{ $own.name | default (include "ft.secret" (index . 0)) }}, key: {{ $own.key | default (index . 1) }}}
{{- end }}

{{/*
What the Secret of an earlier release has stays, needed now or not: a new key would lock every client
out, and a value is soon set back. What is missing is made where it is read. Made once a render, as
the pods' checksum looks at it, too.
*/}}
{{- define "ft.madeSecret" -}}
{{- if not (hasKey .Values "madeSecret") }}
{{- $old := (lookup "v1" "Secret" .Release.Namespace (include "ft.secret" .)).data | default dict }}
{{- $admin := $old.FALLTHROUGH_ADMIN_KEY | default (printf "ft-%s" (randAlphaNum 43) | b64enc) }}
{{- $user := $old.FLOWER_USERNAME | default (b64enc "admin") }}
{{- $password := $old.FLOWER_PASSWORD | default (randAlphaNum 43 | b64enc) }}
{{- $keys := dict "FALLTHROUGH_ADMIN_KEY" $admin "FALLTHROUGH_API_KEYS" (printf "admin!=%s" (b64dec $admin) | b64enc) }}
{{- $flower := dict "FLOWER_USERNAME" $user "FLOWER_PASSWORD" $password
  "FLOWER_BASIC_AUTH" (printf "%s:%s" (b64dec $user) (b64dec $password) | b64enc) }}
{{- $made := dict }}
{{- if not .Values.allowNoKeys }}{{ $made = merge $made $keys }}{{ end }}
{{- if .Values.flower.enabled }}{{ $made = merge $made $flower }}{{ end }}
{{- range $name, $_ := .Values.secrets }}{{ $made = omit $made $name }}{{ end }}
{{- $_ := set .Values "madeSecret" (merge (deepCopy $old) $made) }}
{{- end }}
{{- toYaml .Values.madeSecret }}
{{- end }}

{{/* Changes when a Secret does that the pods read; without a look at the cluster only ours are seen. */}}
{{- define "ft.secretsChecksum" -}}
{{- $all := list .Values.secrets .Values.existingSecret }}
{{- if not .Values.existingSecret }}{{ $all = append $all (include "ft.madeSecret" .) }}{{ end }}
{{- $names := list .Values.existingSecret .Values.externalRedis.passwordSecret.name .Values.externalRabbitmq.passwordSecret.name }}
{{- range .Values.secrets }}{{ $names = append $names .name }}{{ end }}
{{- range $name := $names | compact | uniq | sortAlpha }}
{{- $all = append $all ((lookup "v1" "Secret" $.Release.Namespace $name).data | default dict) }}
{{- end }}
{{- toJson $all | sha256sum }}
{{- end }}

{{/*
What holds for a part's pods, as JSON: the part's own values over, or behind, those of all parts.
Call with (list root own ours); ours: it runs our image.
*/}}
{{- define "ft.of" -}}
{{- $v := (index . 0).Values }}
{{- $own := index . 1 }}
{{- $ours := index . 2 }}
{{- $all := dict }}
{{- range $key := list "nodeSelector" "podAnnotations" "podLabels" }}
{{- $_ := set $all $key (mergeOverwrite (deepCopy (get $v $key)) (get $own $key | default dict)) }}
{{- end }}
{{- range $key := list "tolerations" "topologySpreadConstraints" }}
{{- $_ := set $all $key (concat (get $v $key) (get $own $key | default list)) }}
{{- end }}
{{- range $key := list "affinity" "priorityClassName" }}
{{- $_ := set $all $key (get $own $key | default (get $v $key)) }}
{{- end }}
{{- range $key := list "extraEnv" "extraEnvFrom" "extraVolumes" "extraVolumeMounts" "initContainers" }}
{{- $_ := set $all $key (concat ($ours | ternary (get $v $key) list) (get $own $key | default list)) }}
{{- end }}
{{- $_ := set $all "podSecurityContext" (mergeOverwrite ($ours | ternary (deepCopy $v.podSecurityContext) dict) (deepCopy ($own.podSecurityContext | default dict))) }}
{{- $_ := set $all "securityContext" ($ours | ternary (mergeOverwrite (deepCopy $v.securityContext) ($own.securityContext | default dict)) ($own.securityContext | default $v.securityContext)) }}
{{- toJson $all }}
{{- end }}

{{/*
Labels and annotations of a part's pods. No version of the chart is among them: the store would be
stopped for it. Call with (list root part of secrets); secrets: the part reads them.
*/}}
{{- define "ft.podMeta" -}}
{{- $root := index . 0 }}
{{- $of := index . 2 }}
{{- $fixed := merge (include "ft.selector" (list $root (index . 1)) | fromYaml) (dict "app.kubernetes.io/name" ($root.Values.nameOverride | default "fallthrough")) }}
{{- $annotations := $of.podAnnotations }}
{{- if index . 3 }}{{ $annotations = merge (dict "checksum/secrets" (include "ft.secretsChecksum" $root)) $annotations }}{{ end }}
labels: {{- merge $fixed $of.podLabels | toYaml | nindent 2 }}
{{- with $annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Where a part's pods run and as whom. Call with (list root part of oneNode). */}}
{{- define "ft.podSpec" -}}
{{- $root := index . 0 }}
{{- $of := index . 2 }}
{{- $affinity := deepCopy ($of.affinity | default dict) }}
{{- if index . 3 }}
{{- /* Whoever shares a volume that one node has runs there. */}}
{{- $with := dict "topologyKey" "kubernetes.io/hostname" "labelSelector" (dict
  "matchLabels" (dict "app.kubernetes.io/instance" $root.Release.Name)
  "matchExpressions" (list (dict "key" "app.kubernetes.io/component" "operator" "In" "values" (list "api-server" "worker-interactive" "worker-batch")))) }}
{{- $pods := $affinity.podAffinity | default dict }}
{{- $_ := set $pods "requiredDuringSchedulingIgnoredDuringExecution" (append ($pods.requiredDuringSchedulingIgnoredDuringExecution | default list) $with) }}
{{- $_ := set $affinity "podAffinity" $pods }}
{{- end }}
automountServiceAccountToken: {{ $root.Values.serviceAccount.automount }}
# Else a Service named "fallthrough" would set FALLTHROUGH_PORT to something that is no port.
enableServiceLinks: false
serviceAccountName: {{ include "ft.serviceAccount" $root }}
securityContext: {{- toYaml $of.podSecurityContext | nindent 2 }}
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $of.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $of.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $of.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $of.topologySpreadConstraints }}
topologySpreadConstraints:
{{- range . }}
{{- $selects := dict "labelSelector" (dict "matchLabels" (include "ft.selector" (list $root (index $ 1)) | fromYaml)) }}
  {{- /* One of yours counts what it says: nothing is merged into it, and {} is all pods. */}}
  - {{- hasKey . "labelSelector" | ternary . (merge $selects .) | toYaml | nindent 4 }}
{{- end }}
{{- end }}
{{- with $of.initContainers }}
initContainers: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
How the volume of files may be mounted. One that is there keeps what it has: it cannot be changed.
*/}}
{{- define "ft.filesModes" -}}
{{- $v := .Values.files.persistentVolume }}
{{- $claim := $v.existingClaim | default (print (include "ft.fullname" .) "-files") }}
{{- $live := dig "spec" "accessModes" list (lookup "v1" "PersistentVolumeClaim" .Release.Namespace $claim) }}
{{- toJson ($live | default $v.accessModes) }}
{{- end }}

{{/* A volume that is claimed: name of the claim. Call with (list root own name). */}}
{{- define "ft.claim" -}}
{{ (index . 1).existingClaim | default (print (include "ft.fullname" (index . 0)) "-" (index . 2)) }}
{{- end }}

{{/*
A server of yours: its password first, which the URL names. Call with (list root variable own scheme
path), own: externalRedis or externalRabbitmq.
*/}}
{{- define "ft.externalUrl" }}
{{- $variable := index . 1 }}
{{- $own := index . 2 }}
{{- $password := print (trimSuffix "_URL" $variable | trimPrefix "FALLTHROUGH_") "_PASSWORD" }}
{{- $login := $own.username }}
{{- with $own.passwordSecret.name }}
{{- $login = printf "%s:$(%s)" $own.username $password }}
- name: {{ $password }}
  valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $own.passwordSecret.key }}}}
{{- end }}
- name: {{ $variable }}
  value: {{ printf "%s%s://%s%s:%v/%v" (index . 3) ($own.tls | ternary "s" "") (empty $login | ternary "" (print $login "@")) $own.host $own.port (index . 4) | quote }}
{{- end }}

{{/* A Service. Call with (list root part own defaults), own: type, port, annotations … */}}
{{- define "ft.service" -}}
{{- $root := index . 0 }}
{{- $own := index . 2 }}
apiVersion: v1
kind: Service
metadata:
  name: {{ include "ft.name" (list $root (index . 1)) }}
  labels: {{- merge (include "ft.labels" $root | fromYaml) (dict "app.kubernetes.io/component" (index . 1)) ($own.labels | default dict) | toYaml | nindent 4 }}
  {{- with $own.annotations }}
  annotations: {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ $own.type }}
  {{- range $key := list "clusterIP" "loadBalancerClass" "loadBalancerSourceRanges" "externalTrafficPolicy" "sessionAffinity" }}
  {{- with get $own $key }}
  {{ $key }}: {{ toJson . }}
  {{- end }}
  {{- end }}
  selector: {{- include "ft.selector" (list $root (index . 1)) | nindent 4 }}
  ports:
    - name: http
      port: {{ $own.port }}
      targetPort: http
      {{- with $own.nodePort }}
      nodePort: {{ . }}
      {{- end }}
{{- end }}

{{/* The environment that all parts share. */}}
{{- define "ft.env" -}}
- {name: FALLTHROUGH_DRAIN_SECONDS, value: {{ .Values.drainSeconds | quote }}}
{{- if .Values.valkey.enabled }}
- {name: FALLTHROUGH_REDIS_URL, value: "redis://{{ include "ft.fullname" . }}-valkey:6379/0"}
{{- else if .Values.externalRedis.host }}
{{- include "ft.externalUrl" (list . "FALLTHROUGH_REDIS_URL" .Values.externalRedis "redis" .Values.externalRedis.database) }}
{{- else if not .Values.settings.REDIS_URL }}
{{- include "ft.fromSecret" (list . "FALLTHROUGH_REDIS_URL" "FALLTHROUGH_REDIS_URL" false) }}
{{- end }}
{{- if .Values.externalRabbitmq.host }}
{{- include "ft.externalUrl" (list . "FALLTHROUGH_BROKER_URL" .Values.externalRabbitmq "amqp" (.Values.externalRabbitmq.vhost | urlquery | replace "+" "%20")) }}
{{- else if not .Values.settings.BROKER_URL }}
{{- include "ft.fromSecret" (list . "FALLTHROUGH_BROKER_URL" "FALLTHROUGH_BROKER_URL" true) }}
{{- end }}
{{- if and .Values.maxServe.enabled (not .Values.settings.GPU_URL) }}
- {name: FALLTHROUGH_GPU_URL, value: "http://{{ include "ft.fullname" . }}-max-serve:8000"}
{{- end }}
{{- if and .Values.ollama.enabled (not .Values.settings.CPU_URL) }}
- {name: FALLTHROUGH_CPU_URL, value: "http://{{ include "ft.fullname" . }}-ollama:11434"}
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

{{/*
A probe of a part. Its own, if that says what to ask; else its own times over the shared ones. Call
with (list own times path).
*/}}
{{- define "ft.probe" -}}
{{- $own := index . 0 | default dict }}
{{- $asks := false }}
{{- range list "httpGet" "tcpSocket" "exec" "grpc" }}{{ $asks = or $asks (hasKey $own .) }}{{ end }}
{{- if $asks }}
{{- toYaml $own }}
{{- else }}
{{- toYaml (mergeOverwrite (deepCopy (index . 1)) $own) }}
httpGet: {path: {{ index . 2 }}, port: http}
{{- end }}
{{- end }}

{{/*
One part's pod. Call with a dict: root, part, own (its values), command, port, alive, ready (paths).
*/}}
{{- define "ft.pod" -}}
{{- $v := .root.Values }}
{{- $of := include "ft.of" (list .root .own true) | fromJson }}
{{- $files := and $v.files.persistentVolume.enabled (ne .part "flower") }}
{{- $oneNode := and $files (not (has "ReadWriteMany" (include "ft.filesModes" .root | fromJsonArray))) }}
metadata: {{- include "ft.podMeta" (list .root .part $of true) | nindent 2 }}
spec:
  {{- include "ft.podSpec" (list .root .part $of $oneNode) | nindent 2 }}
  terminationGracePeriodSeconds: {{ $v.terminationGracePeriodSeconds }}
  containers:
    - name: {{ .part }}
      image: {{ include "ft.image" .root }}
      imagePullPolicy: {{ $v.image.pullPolicy }}
      command: {{ toJson .command }}
      ports: [{name: http, containerPort: {{ .port }}}]
      env:
        {{- include "ft.env" .root | nindent 8 }}
        {{- include "ft.ownEnv" (list .root .part) | indent 8 }}
        {{- with $of.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $of.extraEnvFrom }}
      envFrom: {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext: {{- toYaml $of.securityContext | nindent 8 }}
      resources: {{- toYaml .own.resources | nindent 8 }}
      lifecycle: {preStop: {exec: {command: [sleep, {{ $v.preStopSeconds | quote }}]}}}
      startupProbe: {{- include "ft.probe" (list dict $v.probes.startup .alive) | nindent 8 }}
      livenessProbe: {{- include "ft.probe" (list .own.livenessProbe $v.probes.liveness .alive) | nindent 8 }}
      readinessProbe: {{- include "ft.probe" (list .own.readinessProbe $v.probes.readiness .ready) | nindent 8 }}
      volumeMounts:
        - {name: tmp, mountPath: /tmp}
        - {name: data, mountPath: /data}
        {{- with $of.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    - {name: tmp, emptyDir: {sizeLimit: {{ $v.emptyDir.tmp }}}}
    {{- if $files }}
    - {name: data, persistentVolumeClaim: {claimName: {{ include "ft.claim" (list .root $v.files.persistentVolume "files") }}}}
    {{- else }}
    - {name: data, emptyDir: {sizeLimit: {{ $v.emptyDir.data }}}}
    {{- end }}
    {{- with $of.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end }}

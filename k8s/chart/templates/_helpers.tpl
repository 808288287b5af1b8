{{- define "mirror.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" }}{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mirror.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "mirror.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "mirror.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "mirror.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels: {{- include "mirror.labels" .root | nindent 2 }}
{{- with .labels }}
{{- toYaml . | nindent 2 }}
{{- end }}
{{- with .annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "mirror.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}{{ default (include "mirror.fullname" .) .Values.serviceAccount.name }}
{{- else -}}{{ default "default" .Values.serviceAccount.name }}{{- end -}}
{{- end -}}

{{- define "mirror.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}
{{- else -}}{{ .repository }}:{{ default $.Chart.AppVersion .tag }}{{- end -}}
{{- end -}}
{{- end -}}

{{- define "mirror.adminSecret" -}}
{{- default (printf "%s-admin" (include "mirror.fullname" .)) .Values.admin.existingSecret -}}
{{- end -}}

{{- define "mirror.secrets" -}}
{{- if .Values.existingSecret -}}{{ .Values.existingSecret }}
{{- else if .Values.secrets -}}{{ include "mirror.fullname" . }}-secrets{{- end -}}
{{- end -}}

{{- define "mirror.scheme" -}}
{{- $server := dig "server" dict .Values.config -}}
{{- if or .Values.tls.secretName (dig "tls" dict $server) -}}https{{- else -}}http{{- end -}}
{{- end -}}

{{- define "mirror.adminScheme" -}}
{{- $tls := dig "server" "admin" "tls" dict .Values.config -}}
{{- if dig "client_ca" "" $tls -}}
{{- fail "config.server.admin.tls.client_ca: the kubelet shows no certificate to the admin port; leave it out" -}}
{{- end -}}
{{- if and .Values.tls.admin (not .Values.tls.secretName) -}}
{{- fail "tls.admin needs tls.secretName" -}}
{{- end -}}
{{- if or .Values.tls.admin $tls -}}https{{- else -}}http{{- end -}}
{{- end -}}

{{- define "mirror.claims" -}}
{{- if and .Values.persistence.enabled (ne .Values.kind "DaemonSet") -}}true{{- end -}}
{{- end -}}

{{- define "mirror.replicas" -}}
{{- if and (eq .Values.kind "Deployment") (include "mirror.claims" .) (gt (int .Values.replicas) 1) -}}
{{- fail "a Deployment with a claim has one replica: set persistence.enabled=false or kind=StatefulSet" -}}
{{- end -}}
{{- int .Values.replicas -}}
{{- end -}}

{{- define "mirror.securityContext" -}}
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
{{- end -}}

{{- define "mirror.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "mirror.pod" -}}
{{- $name := include "mirror.fullname" . -}}
metadata:
  labels: {{- include "mirror.selector" . | nindent 4 }}
    {{- with .Values.podLabels }}{{ toYaml . | nindent 4 }}{{ end }}
  annotations:
    checksum/config: {{ toYaml .Values.config | sha256sum }}
    {{- with .Values.podAnnotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  serviceAccountName: {{ include "mirror.serviceAccount" . }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .Values.terminationGracePeriodSeconds }}
  securityContext: {{- include "mirror.podSecurityContext" . | nindent 4 }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  {{- range $key := list "imagePullSecrets" "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" }}
  {{- with index $.Values $key }}
  {{ $key }}: {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- end }}
  containers:
    - name: mirror
      image: {{ include "mirror.image" . | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      args: [serve, --config, /etc/mirror/mirror.yaml]
      env: {{- include "mirror.environment" . | nindent 8 }}
      ports:
        - name: registry
          containerPort: 5000
          protocol: TCP
          {{- if and (eq .Values.kind "DaemonSet") (int .Values.hostPort) }}
          hostPort: {{ int .Values.hostPort }}
          {{- end }}
        - {name: admin, containerPort: 5001, protocol: TCP}
      # Never a question to upstream: an outage there must not restart or empty anything here.
      {{- $scheme := include "mirror.adminScheme" . | eq "https" | ternary ", scheme: HTTPS" "" }}
      startupProbe: {httpGet: {path: /readyz, port: admin{{ $scheme }}}, periodSeconds: 2, failureThreshold: 150}
      readinessProbe: {httpGet: {path: /readyz, port: admin{{ $scheme }}}, periodSeconds: 5, timeoutSeconds: 4}
      livenessProbe: {httpGet: {path: /livez, port: admin{{ $scheme }}}, periodSeconds: 10, timeoutSeconds: 9, failureThreshold: 6}
      # The listener closes at once on SIGTERM: first let the Service forget this Pod.
      lifecycle: {preStop: {sleep: {seconds: {{ .Values.preStopSeconds }}}}}
      securityContext: {{- include "mirror.securityContext" . | nindent 8 }}
      resources: {{- toYaml .Values.resources | nindent 8 }}
      volumeMounts:
        - {name: cache, mountPath: /var/lib/mirror}
        {{- include "mirror.configurationMounts" . | nindent 8 }}
  volumes:
    {{- include "mirror.configurationVolumes" . | nindent 4 }}
    {{- if and (eq .Values.kind "DaemonSet") .Values.persistence.hostPath }}
    - {name: cache, hostPath: {path: {{ .Values.persistence.hostPath | quote }}, type: Directory}}
    {{- else if not (include "mirror.claims" .) }}
    - {name: cache, emptyDir: {sizeLimit: {{ .Values.persistence.emptyDirSize }}}}
    {{- else if eq .Values.kind "Deployment" }}
    - {name: cache, persistentVolumeClaim: {claimName: {{ default $name .Values.persistence.existingClaim }}}}
    {{- end }}
{{- end -}}

{{- define "mirror.environment" -}}
- {name: MIRROR_SERVER__LISTEN, value: ":5000"}
- {name: MIRROR_SERVER__ADMIN_LISTEN, value: ":5001"}
- {name: MIRROR_SERVER__ADMIN__TOKEN_FILE, value: /etc/mirror/admin/token}
- {name: MIRROR_CACHE__DIRECTORY, value: /var/lib/mirror}
{{- if .Values.tls.secretName }}
- {name: MIRROR_SERVER__TLS__CERTIFICATE, value: /etc/mirror/tls/tls.crt}
- {name: MIRROR_SERVER__TLS__KEY, value: /etc/mirror/tls/tls.key}
{{- if .Values.tls.admin }}
- {name: MIRROR_SERVER__ADMIN__TLS__CERTIFICATE, value: /etc/mirror/tls/tls.crt}
- {name: MIRROR_SERVER__ADMIN__TLS__KEY, value: /etc/mirror/tls/tls.key}
{{- end }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "mirror.configurationMounts" -}}
- {name: config, mountPath: /etc/mirror/mirror.yaml, subPath: mirror.yaml, readOnly: true}
- {name: admin, mountPath: /etc/mirror/admin, readOnly: true}
{{- if .Values.tls.secretName }}
- {name: tls, mountPath: /etc/mirror/tls, readOnly: true}
{{- end }}
{{- if include "mirror.secrets" . }}
- {name: secrets, mountPath: /etc/mirror/secrets, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "mirror.configurationVolumes" -}}
- {name: config, configMap: {name: {{ include "mirror.fullname" . }}}}
- {name: admin, secret: {secretName: {{ include "mirror.adminSecret" . }}, defaultMode: 288}}
{{- with .Values.tls.secretName }}
- {name: tls, secret: {secretName: {{ . }}, defaultMode: 288}}
{{- end }}
{{- with include "mirror.secrets" . }}
- {name: secrets, secret: {secretName: {{ . }}, defaultMode: 288}}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "mirror.claimSpec" -}}
accessModes: {{ toJson .accessModes }}
{{- with .storageClass }}
storageClassName: {{ . }}
{{- end }}
resources: {requests: {storage: {{ .size }}}}
{{- end -}}

{{- define "mirror.agentSelector" -}}
app.kubernetes.io/name: mirror-node-agent
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "mirror.cleanupSelector" -}}
app.kubernetes.io/name: mirror-node-agent-cleanup
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "mirror.agentNamespace" -}}
{{- default .Release.Namespace .Values.nodeAgent.namespace -}}
{{- end -}}

{{- define "mirror.agentMetadata" -}}
name: {{ .name }}
namespace: {{ include "mirror.agentNamespace" .root }}
labels:
  helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
  {{- include "mirror.agentSelector" .root | nindent 2 }}
  app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
  app.kubernetes.io/managed-by: {{ .root.Release.Service }}
  {{- with .root.Values.commonLabels }}{{ toYaml . | nindent 2 }}{{ end }}
{{- with .annotations }}
annotations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "mirror.agentMirror" -}}
{{- if .Values.nodeAgent.mirror -}}{{ .Values.nodeAgent.mirror }}
{{- else if and (eq .Values.kind "DaemonSet") (int .Values.hostPort) -}}{{ include "mirror.scheme" . }}://[$(NODE_IP)]:{{ int .Values.hostPort }}
{{- else if and (ne .Values.service.type "ClusterIP") (int .Values.service.nodePort) -}}{{ include "mirror.scheme" . }}://[$(NODE_IP)]:{{ int .Values.service.nodePort }}
{{- else -}}{{ fail "nodes need a way to the mirror: set service.nodePort, or nodeAgent.mirror to its URL" }}{{- end -}}
{{- end -}}

{{- define "mirror.agentConfig" -}}
{{- $names := dict -}}
{{- range $name, $upstream := default dict .Values.config.upstreams -}}
{{- $_ := set $names $name (kindIs "invalid" $upstream | ternary nil dict) -}}
{{- end -}}
{{- $config := dict "upstreams" $names -}}
{{- range $key := list "builtin_upstreams" "default_upstream" -}}
{{- if hasKey $.Values.config $key -}}{{- $_ := set $config $key (index $.Values.config $key) -}}{{- end -}}
{{- end -}}
{{ toYaml $config }}
{{- end -}}

{{- define "mirror.agentSecurityContext" -}}
# The files belong to root; it may do nothing else that root may.
runAsUser: 0
runAsGroup: 0
allowPrivilegeEscalation: false
capabilities: {drop: [ALL]}
readOnlyRootFilesystem: true
seccompProfile: {type: RuntimeDefault}
{{- with .Values.nodeAgent.seLinuxOptions }}
seLinuxOptions: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "mirror.agentPod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.nodeAgent.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- range $key := list "nodeSelector" "tolerations" }}
{{- with index $.Values.nodeAgent $key }}
{{ $key }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

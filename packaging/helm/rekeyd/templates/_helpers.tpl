{{- define "rekeyd.name" -}}
{{- printf "%s" .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "rekeyd.selector" -}}
app.kubernetes.io/name: rekeyd
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "rekeyd.labels" -}}
{{ include "rekeyd.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "rekeyd.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "rekeyd.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ .Values.serviceAccount.name | default (include "rekeyd.name" .) }}
{{- else -}}
{{ required "serviceAccount.name is to name one that is there, or serviceAccount.create to be true" .Values.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{/* The most workers there may be, among whom the KMS budget is divided. */}}
{{- define "rekeyd.most" -}}
{{- if .Values.autoscaling.enabled -}}
{{ .Values.autoscaling.maxReplicas }}
{{- else -}}
{{ max 1 (int .Values.replicas) }}
{{- end -}}
{{- end -}}

{{/* What would run and be wrong is refused here. */}}
{{- define "rekeyd.checked" -}}
{{- if regexMatch "(?m)^\\s*kind\\s*=\\s*\"(sqlite|ring)\"" .Values.config -}}
{{- fail "config: the embedded store, queue and key ring are files of one machine (kind = \"sqlite\", \"ring\"); this chart runs several workers. Name a cluster, SQS and KMS" -}}
{{- end -}}
{{- if regexMatch "(?m)^\\s*rate_per_s\\s*=" .Values.config -}}
{{- fail "config: rate_per_s is each worker's; set kmsCallsPerS, which is divided among them" -}}
{{- end -}}
{{- if lt (int .Values.kmsCallsPerS) (int (include "rekeyd.most" .)) -}}
{{- fail "kmsCallsPerS is less than one call a second for each worker there may be" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas)) -}}
{{- fail "autoscaling.minReplicas is more than autoscaling.maxReplicas" -}}
{{- end -}}
{{- end -}}

{{/* What a container of ours may do: nothing but compute and use the network. */}}
{{- define "rekeyd.container" -}}
image: {{ include "rekeyd.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: ["ALL"]
resources:
  {{- toYaml .Values.resources | nindent 2 }}
{{- end -}}

{{- define "rekeyd.pod" -}}
serviceAccountName: {{ include "rekeyd.serviceAccount" . }}
# It asks the Kubernetes API nothing. (A role of AWS comes as a volume of its own.)
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end -}}

{{- define "rekeyd.env" -}}
- name: REKEYD_DATA_DIR
  value: /var/lib/rekeyd
- name: REKEYD_LOG__FORMAT
  value: json
- name: REKEYD_KMS__RATE_PER_S
  value: {{ div (int .Values.kmsCallsPerS) (int (include "rekeyd.most" .)) | quote }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "rekeyd.mounts" -}}
- name: config
  mountPath: /etc/rekeyd/rekeyd.toml
  subPath: rekeyd.toml
  readOnly: true
{{- if .Values.secretFiles }}
- name: secrets
  mountPath: /etc/rekeyd/secrets
  readOnly: true
{{- end }}
{{- end -}}

{{- define "rekeyd.volumes" -}}
- name: config
  configMap:
    name: {{ include "rekeyd.name" . }}
{{- with .Values.secretFiles }}
- name: secrets
  secret:
    secretName: {{ . }}
    # Readable by the group of the pod; the workers' user is not the owner.
    defaultMode: 0440
{{- end }}
{{- end -}}

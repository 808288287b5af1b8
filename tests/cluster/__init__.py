"""What is delivered for Kubernetes, taken by a real API server: ``make cluster``.

An etcd and a kube-apiserver of this machine, built by Go from their own modules, say what no
schema does: defaults, admission, pod security, server-side apply, and what Helm makes of it. No
Pod runs: there is no kubelet, and there are no controllers.
"""

#!/usr/bin/env python3
"""Draws docs/images/dashboard.png: the dashboard of the chart over a real load run.

A real Prometheus scrapes a real `pierhead serve`, by protobuf with native histograms, while clients send requests for four
minutes: an endpoint fails for a while and is ejected, a Service becomes slow, one is asked for more than its policy
allows, a configuration with flaws is written. Then each panel's own expressions are evaluated by Prometheus and drawn by
matplotlib in the places that the dashboard gives them. It is not Grafana that draws; the expressions are Grafana's.

usage: dashboard.py PIERHEAD PROMETHEUS [SECONDS]
"""
import concurrent.futures
import http.client
import http.server
import json
import pathlib
import random
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import urllib.parse
import urllib.request

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
DASHBOARD = json.loads((ROOT / "charts/pierhead/files/dashboard.json").read_text())
SCRAPE, STEP, RATE = 2, 2, "20s"


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Endpoint(http.server.ThreadingHTTPServer):
    """An HTTP/1.1 endpoint that is as slow and as broken as it is told to be."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, delay, size):
        self.delay, self.size, self.failing = delay, size, False
        super().__init__(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_):
        pass  # the try of a hedged request that loses closes its connection


class Answer(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        length = int(self.headers.get("content-length", 0))
        self.rfile.read(length)
        time.sleep(random.expovariate(1 / self.server.delay))
        body = b"x" * int(random.expovariate(1 / self.server.size))
        self.send_response(500 if self.server.failing else 200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_):
        pass


def service(name, endpoints, policy):
    """Manifests of a Service, its endpoints and its policy."""
    addresses = [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}]
    text = f"""
apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: shop}}
spec: {{ports: [{{name: http, port: 80}}]}}
---
apiVersion: pierhead.dev/v1alpha1
kind: BackendPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  targetRefs: [{{group: "", kind: Service, name: {name}}}]
  {policy}
"""
    for endpoint in endpoints:
        port = endpoint.server_address[1]
        text += f"""---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {name}-{port}, namespace: shop, labels: {{kubernetes.io/service-name: {name}}}}}
addressType: IPv4
ports: [{{name: http, port: {port}}}]
endpoints: {json.dumps(addresses)}
"""
    return text


def ingress(name, host, service, tls=""):
    return f"""
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {{name: {name}, namespace: shop}}
spec:
  {tls}
  rules:
    - host: {host}
      http: {{paths: [{{path: /, pathType: Prefix, backend: {{service: {{name: {service}, port: {{number: 80}}}}}}}}]}}
"""


def secret(folder, name, days):
    """A TLS Secret whose certificate is valid for so many days."""
    key, certificate = folder / "key", folder / "certificate"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", str(days),
         "-subj", f"/CN={name}.example", "-addext", f"subjectAltName=DNS:{name}.example", "-keyout", key, "-out", certificate],
        check=True, capture_output=True)
    data = {"tls.crt": certificate.read_text(), "tls.key": key.read_text()}
    return "\n" + json.dumps({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
                       "metadata": {"name": name, "namespace": "shop"}, "stringData": data}) + "\n"


class Load:
    """Clients that ask hosts at a rate until they are stopped."""

    def __init__(self, http_port, https_port):
        self.ports, self.over, self.threads = (http_port, https_port), threading.Event(), []

    def add(self, host, per_second, clients, seconds=None, tls=False, body=0):
        stop = time.monotonic() + seconds if seconds else None
        for _ in range(clients):
            arguments = (host, per_second / clients, stop, tls, body)
            thread = threading.Thread(target=self.client, args=arguments, daemon=True)
            thread.start()
            self.threads.append(thread)

    def client(self, host, per_second, stop, tls, body):
        connection = None
        while not self.over.is_set() and (stop is None or time.monotonic() < stop):
            time.sleep(random.expovariate(per_second))
            try:
                if connection is None or random.random() < 0.02:
                    connection = self.connect(host, tls)
                method = "POST" if body else "GET"
                connection.request(method, "/", headers={"host": host}, body=b"x" * body if body else None)
                connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                connection = None

    def connect(self, host, tls):
        raw = socket.create_connection(("127.0.0.1", self.ports[tls]))
        connection = http.client.HTTPConnection(host)
        if tls:
            context = ssl._create_unverified_context()
            if random.random() < 0.2:
                context.maximum_version = ssl.TLSVersion.TLSv1_2
            raw = context.wrap_socket(raw, server_hostname=host)
        connection.sock = raw
        return connection


def run(pierhead, prometheus, seconds, folder):
    """The load run; gives the port of a Prometheus that has seen it, and what to stop."""
    cart = [Endpoint(0.004, 3000) for _ in range(3)]
    catalog = [Endpoint(0.008, 20000) for _ in range(2)]
    api = [Endpoint(0.03, 500) for _ in range(2)]
    retries = "retries: {retryOn: [ConnectFailure, Reset, ServerError], attempts: 2}"
    outlier = "health: {panicThreshold: 0, outlier: {consecutiveErrors: 5, baseEjection: 15s}, " \
              "active: {http: {path: /healthz}, interval: 5s}}"
    manifests = "---".join([
        ingress("front", "shop.example", "cart", "tls: [{hosts: [secure.example], secretName: secure}]"),
        ingress("secure", "secure.example", "cart"),
        ingress("catalog", "catalog.example", "catalog"),
        ingress("api", "api.example", "api"),
        service("cart", cart, f"{retries}\n  {outlier}"),
        service("catalog", catalog, "retries: {attempts: 1, hedge: {after: 60ms}}"),
        service("api", api, "limits: {maxConcurrentRequests: 6, maxPending: 8, pendingTimeout: 200ms}"),
        secret(folder, "secure", 45), secret(folder, "old", 9),
    ])
    watched = folder / "manifests"
    watched.mkdir()
    write = lambda text: (folder / "aside").write_text(text) and shutil.move(folder / "aside", watched / "all.yaml")  # noqa: E731
    write(manifests)
    http_port, https_port, admin, web = (free_port() for _ in range(4))
    flags = [f"--http=127.0.0.1:{http_port}", f"--https=127.0.0.1:{https_port}", f"--admin=127.0.0.1:{admin}",
             "--manifests", watched, "--default-certificate=shop/old", "--access-log=off", "--threads=2"]
    processes = [subprocess.Popen([pierhead, "serve", *flags], stderr=(folder / "log").open("w"))]
    configuration = {
        "global": {"scrape_interval": f"{SCRAPE}s", "evaluation_interval": "5s"},
        "rule_files": [str(ROOT / "charts/pierhead/files/rules.yaml")],
        "scrape_configs": [{
            "job_name": "pierhead", "scrape_native_histograms": True, "always_scrape_classic_histograms": True,
            "static_configs": [{"targets": [f"127.0.0.1:{admin}"], "labels": {"pod": "pierhead-0"}}]}]}
    (folder / "prometheus.yml").write_text(json.dumps(configuration))
    processes.append(subprocess.Popen(
        [prometheus, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}",
         f"--web.listen-address=127.0.0.1:{web}"], stderr=(folder / "prometheus.log").open("w")))
    load = Load(http_port, https_port)
    try:
        wait_for(f"http://127.0.0.1:{admin}/readyz", folder / "log")
        wait_for(f"http://127.0.0.1:{web}/-/ready", folder / "prometheus.log")
        time.sleep(2 * SCRAPE)
        began = time.time()
        at = lambda share: time.sleep(max(0.0, began + share * seconds - time.time()))  # noqa: E731
        load.add("shop.example", 40, 8)
        load.add("secure.example", 10, 4, tls=True)
        load.add("catalog.example", 20, 8)
        load.add("api.example", 15, 6, body=2000)
        load.add("unknown.example", 1, 1)
        at(0.25)
        cart[0].failing = True
        at(0.45)
        write(manifests + "---" + ingress("late", "late.example", "missing") + "---" + ingress("other", "shop.example", "api"))
        load.add("late.example", 2, 1)
        at(0.5)
        cart[0].failing = False
        at(0.55)
        catalog[0].delay = 0.15
        at(0.75)
        catalog[0].delay = 0.008
        load.add("api.example", 400, 40, seconds=0.12 * seconds)
        at(1.0)
    finally:
        load.over.set()
    return web, processes, began


def wait_for(url, log):
    for _ in range(300):
        try:
            if urllib.request.urlopen(url).status == 200:
                return
        except OSError:
            time.sleep(0.1)
    sys.exit(f"{url} does not answer\n{log.read_text()}")


def ask(web, path, **parameters):
    query = urllib.parse.urlencode(parameters)
    with urllib.request.urlopen(f"http://127.0.0.1:{web}/api/v1/{path}?{query}") as answer:
        return json.load(answer)["data"]["result"]


def expression(target):
    text = target["expr"].replace("$__rate_interval", RATE)
    for variable in DASHBOARD["templating"]["list"]:
        text = text.replace(f'"${variable["name"]}"', '".*"')
    return text


def legend(target, labels):
    text = target["legendFormat"]
    for name in ["namespace", "ingress", "service", "reason", "outcome", "status", "severity", "state", "kind", "version",
                 "result", "runtime", "pod", "instance", "secret"]:
        text = text.replace("{{" + name + "}}", labels.get(name, ""))
    return text.replace("127.0.0.1:", ":").strip()


UNITS = {"reqps": "req/s", "ops": "/s", "Bps": "bytes/s", "s": "s", "percentunit": "%", "bytes": "bytes", "short": "", "d": "days"}


def shown(value, unit):
    if unit == "percentunit":
        return f"{100 * value:.2f} %"
    if unit == "s" and value < 1:
        return f"{1000 * value:.1f} ms"
    return f"{value:,.1f} {UNITS.get(unit, '')}".replace(".0 ", " ").strip()


def draw(web, began, ended, path):
    panels = DASHBOARD["panels"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    figure = plt.figure(figsize=(18, height * 0.30), facecolor="#f4f5f5")
    for panel in panels:
        place = panel["gridPos"]
        left, bottom = place["x"] / 24, 1 - (place["y"] + place["h"]) / height
        if panel["type"] == "row":
            figure.text(0.01, bottom + 0.25 / height, panel["title"], fontsize=13, weight="bold")
            continue
        box = [left + 0.035, bottom + 2.0 / height, place["w"] / 24 - 0.05, (place["h"] - 3.2) / height]
        unit = panel["fieldConfig"]["defaults"]["unit"]
        if panel["type"] == "stat":
            result = ask(web, "query", query=expression(panel["targets"][0]), time=ended)
            text = shown(float(result[0]["value"][1]), unit) if result else "no data"
            figure.text(left + 0.02, bottom + 2.9 / height, panel["title"], fontsize=9, weight="bold")
            figure.text(left + 0.02, bottom + 1.1 / height, text, fontsize=20, color="#37872d")
            continue
        axes = figure.add_axes(box)
        axes.set_title(panel["title"], fontsize=9, weight="bold", loc="left")
        axes.tick_params(labelsize=7)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        if panel["type"] == "bargauge":
            draw_bars(axes, web, panel, ended)
        else:
            draw_lines(axes, web, panel, began, ended, unit)
    figure.savefig(path, dpi=80, facecolor=figure.get_facecolor())


def draw_bars(axes, web, panel, ended):
    target = panel["targets"][0]
    bars = [(legend(target, one["metric"]), float(one["value"][1])) for one in
            ask(web, "query", query=expression(target), time=ended)]
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
    color = lambda value: [step["color"] for step in steps if step["value"] is None or value >= step["value"]][-1]  # noqa: E731
    axes.barh([name for name, _ in bars], [value for _, value in bars], color=[color(value) for _, value in bars], height=0.4)
    for at, (_, value) in enumerate(bars):
        axes.text(value, at, f" {value:.1f} d", fontsize=8, va="center")


def draw_lines(axes, web, panel, began, ended, unit):
    lines = []
    for target in panel["targets"]:
        for one in ask(web, "query_range", query=expression(target), start=began, end=ended, step=STEP):
            values = {round((float(at) - began) / STEP): float(value) for at, value in one["values"] if value != "NaN"}
            lines.append((legend(target, one["metric"]) or "value", values))
    scale = 100 if unit == "percentunit" else 1
    ticks = range(round((ended - began) / STEP) + 1)
    seconds = [tick * STEP for tick in ticks]
    stacked = panel["fieldConfig"]["defaults"]["custom"]["stacking"]["mode"] == "normal"
    if not lines:
        axes.text(0.5, 0.5, "no data", ha="center", va="center", color="gray", transform=axes.transAxes, fontsize=8)
    elif stacked:
        axes.stackplot(seconds, [[scale * values.get(tick, 0) for tick in ticks] for _, values in lines],
                       labels=[name for name, _ in lines], alpha=0.75)
    else:
        for name, values in lines:
            axes.plot(seconds, [scale * values.get(tick, float("nan")) for tick in ticks], label=name, linewidth=1.1)
    axes.set_xlim(0, seconds[-1])
    axes.set_ylim(bottom=0)
    axes.set_ylabel(UNITS.get(unit, ""), fontsize=7)
    axes.set_xlabel("s", fontsize=6, labelpad=0, loc="right")
    if lines:
        axes.legend(fontsize=6, loc="upper left", bbox_to_anchor=(0, -0.12), ncol=3, frameon=False, columnspacing=1,
                    handlelength=1)


def main():
    pierhead, prometheus = sys.argv[1:3]
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 240
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        web, processes, began = run(pierhead, prometheus, seconds, folder)
        try:
            ended = began + seconds
            draw(web, began, ended, ROOT / "docs/images/dashboard.png")
            native = ask(web, "query", query=f"histogram_quantile(0.99, sum(rate(pierhead_request_duration_seconds[{seconds:.0f}s])))", time=ended)
            classic = ask(web, "query", query=f"histogram_quantile(0.99, sum by (le) (rate(pierhead_request_duration_seconds_bucket[{seconds:.0f}s])))", time=ended)
            print("p99 of the run: native", native[0]["value"][1], "classic", classic[0]["value"][1])
            alerts = ask(web, "query", query="count by (alertname, alertstate) (ALERTS)", time=ended)
            print("alerts at the end:", [one["metric"] for one in alerts])
        finally:
            for process in processes:
                process.terminate()
                process.wait()


if __name__ == "__main__":
    main()

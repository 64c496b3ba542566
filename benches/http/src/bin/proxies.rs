//! What a check costs a proxy: `proxies`.
//!
//! Each proxy runs on its example configuration, in front of a server that answers without looking,
//! once as it is and once with the check taken out.

#![deny(unsafe_code)]

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Parser as _;
use compare::load::{self, Connection};
use compare::processes::{Process, Redis, SERVICE_KEY, Server};
use compare::{api, results};
use serde_json::{Value, json};

const SESSIONS: usize = 64;

/// Measure what a check costs each proxy.
#[derive(clap::Parser)]
struct Args {
    /// The gateway.
    #[arg(long, default_value = "target/release/gatehouse")]
    gateway: PathBuf,
    /// Where scripts/install puts proxies.
    #[arg(long, default_value = "target/proxies")]
    installed: PathBuf,
    /// The configurations.
    #[arg(long, default_value = "examples")]
    examples: PathBuf,
    /// How long a measurement lasts.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// The fixed rate for latencies, in requests a second.
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    rate: u32,
    /// The report.
    #[arg(long, default_value = "docs/proxies/README.md")]
    out: PathBuf,
}

/// A proxy, and how the check is taken out of its configuration.
struct Proxy {
    name: &'static str,
    example: &'static str,
    command: Command,
    without: [(&'static str, &'static str); 1],
}

const ENVOY_ROUTE: &str =
    "- match: { prefix: / }\n                          route: { cluster: application }\n";
const ENVOY_WITHOUT: (&str, &str) = (
    ENVOY_ROUTE,
    "- match: { prefix: / }
                          route: { cluster: application }
                          typed_per_filter_config:
                            gatehouse:
                              \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthzPerRoute
                              disabled: true
",
);

fn proxies(installed: &Path) -> Result<Vec<Proxy>> {
    let installed = installed.canonicalize().context("make setup-test installs proxies")?;
    let mut versions = fs::read_dir(installed.join("lib"))?;
    let python = versions.next().context("a directory of Python packages")??.path();
    let command = |program: &Path, args: &str| {
        let mut command = Command::new(program);
        command.args(args.split(' '));
        command
    };
    let mut nginx = command(Path::new("nginx"), "-p . -e stderr -c nginx.conf -g");
    nginx.arg("daemon off; master_process off;");
    let envoy = python.join("site-packages/envoy/_bin/envoy");
    let envoy_args = "-c envoy.yaml --concurrency 1 --disable-hot-restart --log-level warning";
    let proxy =
        |name, example, command, without| Proxy { name, example, command, without: [without] };
    Ok(vec![
        proxy("nginx", "nginx", nginx, ("auth_request /gatehouse/strict=0;", "auth_request off;")),
        proxy(
            "Traefik",
            "traefik",
            command(&installed.join("bin/traefik"), "--configFile=traefik.yml"),
            ("middlewares: [gatehouse]", "middlewares: []"),
        ),
        proxy(
            "Caddy",
            "caddy",
            command(&installed.join("bin/caddy"), "run --config Caddyfile"),
            ("import gatehouse strict=0", "reverse_proxy 127.0.0.1:8001"),
        ),
        proxy(
            "HAProxy",
            "haproxy",
            command(Path::new("haproxy"), "-db -f haproxy.cfg"),
            (
                "http-request lua.gatehouse 127.0.0.1:8080",
                "http-request set-var(txn.gatehouse_allowed) bool(true)",
            ),
        ),
        proxy("Envoy, HTTP", "envoy-http", command(&envoy, envoy_args), ENVOY_WITHOUT),
        proxy("Envoy, gRPC", "envoy-grpc", command(&envoy, envoy_args), ENVOY_WITHOUT),
    ])
}

/// What was measured of a proxy, with or without the check.
struct Cost {
    rate: f64,
    /// Microseconds of CPU time a request.
    proxy: f64,
    gateway: f64,
    latency: [f64; 3],
}

fn main() -> Result<()> {
    let args = Args::parse();
    let work = tempfile::tempdir()?;
    let redis = Redis::start(work.path(), 0, &[])?;
    let gateway = Server::gateway(&args.gateway, &redis.url(), work.path(), "gateway.log")?;
    let own = std::env::current_exe()?;
    let mut hyper = Command::new(own.with_file_name("rival-hyper"));
    let application = Server::rival(&mut hyper, &redis, work.path().join("application.log"))?;
    let requests = requests(gateway.address)?;
    let mut rows = String::new();
    for mut proxy in proxies(&args.installed)? {
        let mut costs = Vec::new();
        for checked in [false, true] {
            let dir = work.path().join(format!("{}-{checked}", proxy.example));
            let running = start(&args, &mut proxy, checked, &dir, &gateway, &application)?;
            costs.push(measure(&args, &running, &gateway, &requests, &dir)?);
        }
        let [without, with] = &costs[..] else { bail!("two measurements") };
        eprintln!("{}: {:.0}/s, {:.0}/s", proxy.name, without.rate, with.rate);
        let both = |number: fn(&Cost) -> f64, digits: usize| {
            format!("{:.digits$} | {:.digits$}", number(without), number(with))
        };
        writeln!(
            rows,
            "| {} | {} | {} | {:.1} | {} | {} |",
            proxy.name,
            both(|cost| cost.rate, 0),
            both(|cost| cost.proxy, 0),
            with.gateway,
            both(|cost| cost.latency[0], 2),
            both(|cost| cost.latency[1], 2),
        )?;
    }
    let section = format!(
        "{}.\n\n\
         | | requests/s | | CPU µs/request: proxy | | Gatehouse | p50 ms | | p99 ms | |\n\
         |---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n\
         | | *without* | *with* | *without* | *with* | *with* | *without* | *with* | *without* | *with* |\n\
         {rows}\n\
         One run of {} s each (`target/http/release/proxies`), on one machine together with the load: \
         64 connections of wrk at full speed, then {} requests a second at fixed times for the \
         latencies. nginx and Envoy run with one worker, the others as they like. The application \
         answers without looking.\n",
        results::machine()?,
        args.seconds,
        args.rate,
    );
    results::write(&args.out, "overhead", &section)
}

/// Requests of people who are logged in.
fn requests(gateway: SocketAddr) -> Result<Vec<String>> {
    let mut connection = Connection::open(gateway)?;
    let request = |number: usize| {
        let body = json!({ "user_id": format!("user-{number}"), "roles": ["staff"] });
        let answer =
            connection.ask(api::post("/api/v1/sessions", SERVICE_KEY, &body).as_bytes())?;
        let body: Value = serde_json::from_str(&answer.body)?;
        let token = body["access_token"].as_str().context("no access token")?;
        Ok(format!(
            "GET /inbox HTTP/1.1\r\nHost: app.example\r\nAuthorization: Bearer {token}\r\n\r\n"
        ))
    };
    (0..SESSIONS).map(request).collect()
}

struct Running {
    process: Process,
    address: SocketAddr,
}

/// Starts a proxy on its example, on other ports.
fn start(
    args: &Args,
    proxy: &mut Proxy,
    checked: bool,
    dir: &Path,
    gateway: &Server,
    application: &Server,
) -> Result<Running> {
    let free = || Ok::<_, std::io::Error>(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
    let port = free()?;
    fs::create_dir_all(dir.join("tmp"))?;
    let mut found = checked;
    for entry in fs::read_dir(args.examples.join(proxy.example))? {
        let path = entry?.path();
        let mut text = fs::read_to_string(&path)?;
        for (from, to) in proxy.without.iter().filter(|_| !checked) {
            found |= text.contains(from);
            text = text.replace(from, to);
        }
        text = text.replace("listen 127.0.0.1:8001", &format!("listen 127.0.0.1:{}", free()?));
        for (from, to) in [
            (8080, gateway.address.port()),
            (9191, gateway.grpc.port()),
            (8000, port),
            (8001, application.address.port()),
        ] {
            for before in [":", "port_value: "] {
                text = text.replace(&format!("{before}{from}"), &format!("{before}\u{1}{to}"));
            }
        }
        let name = path.file_name().context("a name")?;
        fs::write(dir.join(name), text.replace('\u{1}', ""))?;
    }
    ensure!(found, "{}: the check is not where it was", proxy.name);
    proxy.command.current_dir(dir);
    let process = Process::start(&proxy.command, dir.join("log"))?;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let deadline = Instant::now() + Duration::from_secs(20);
    let refused = if checked { 401 } else { 200 };
    let question = b"GET / HTTP/1.1\r\nHost: app.example\r\n\r\n";
    while !Connection::open(address)
        .and_then(|mut connection| connection.ask(question))
        .is_ok_and(|answer| answer.status == refused)
    {
        ensure!(Instant::now() < deadline, "{}: {}", proxy.name, process.log());
        thread::sleep(Duration::from_millis(20));
    }
    Ok(Running { process, address })
}

fn measure(
    args: &Args,
    proxy: &Running,
    gateway: &Server,
    requests: &[String],
    dir: &Path,
) -> Result<Cost> {
    load::closed(proxy.address, requests, 1, dir)?;
    let before = [proxy.process.cpu()?, gateway.cpu()?];
    let load = load::closed(proxy.address, requests, args.seconds, dir)?;
    let after = [proxy.process.cpu()?, gateway.cpu()?];
    let micros = |of: usize| {
        (after[of].saturating_sub(before[of])).as_secs_f64() * 1e6 / load.answers as f64
    };
    let open = load::open(proxy.address, requests, args.rate, args.seconds)?;
    Ok(Cost { rate: load.rate(), proxy: micros(0), gateway: micros(1), latency: open.latency })
}

//! nginx in two roles: the upstream that both proxies ask, and the proxy that the edge is measured against.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use flyloft::exec::Cmd;

use crate::write;

/// An upstream that does as little as possible: a few bytes, and a file of 1 MB.
pub fn upstream(dir: &Path, listen: SocketAddr) -> Result<Cmd> {
    let root = dir.join("root");
    std::fs::create_dir(&root)?;
    write(&root.join("large"), vec![b'x'; 1_000_000])?;
    let http = format!(
        "server {{
            listen {listen} backlog=4096;
            root {root};
            sendfile on;
            keepalive_requests 1000000000;
            location = /small {{ return 200 \"hello from upstream\"; }}
        }}",
        root = root.display(),
    );
    nginx(dir, "upstream", 1, &http)
}

/// The proxy as a careful administrator sets it up: connections to the upstream are kept, the app learns who asks,
/// and no answer goes by way of the disk.
pub fn proxy(dir: &Path, listen: SocketAddr, upstream: SocketAddr, host: &str, workers: usize) -> Result<Cmd> {
    proxy_with(dir, listen, upstream, host, workers, Tls::default())
}

/// What it says of TLS: beside the address at which it listens, and in its server.
#[derive(Default)]
pub struct Tls {
    pub options: &'static str,
    pub lines: String,
}

/// The same with TLS.
pub fn proxy_with(
    dir: &Path,
    listen: SocketAddr,
    upstream: SocketAddr,
    host: &str,
    workers: usize,
    Tls { options, lines }: Tls,
) -> Result<Cmd> {
    let http = format!(
        "upstream app {{ server {upstream}; keepalive 128; keepalive_requests 1000000000; }}
        server {{
            listen {listen} {options} backlog=4096;
            {lines}
            server_name {host};
            keepalive_requests 1000000000;
            location / {{
                proxy_pass http://app;
                proxy_http_version 1.1;
                proxy_set_header Connection \"\";
                proxy_set_header Host $http_host;
                proxy_set_header X-Forwarded-For $remote_addr;
                proxy_set_header X-Forwarded-Proto $scheme;
                proxy_set_header X-Forwarded-Host $http_host;
                proxy_set_header X-Forwarded-Port $server_port;
                proxy_max_temp_file_size 0;
                add_header X-Robots-Tag noindex always;
            }}
        }}"
    );
    nginx(dir, "proxy", workers, &http)
}

fn nginx(dir: &Path, name: &str, workers: usize, http: &str) -> Result<Cmd> {
    let home = dir.join(name);
    std::fs::create_dir(&home)?;
    let home_path = home.display();
    let config = home.join("nginx.conf");
    write(
        &config,
        format!(
            "daemon off;
            user root;
            worker_processes {workers};
            pid {home_path}/pid;
            error_log {home_path}/error.log;
            events {{ worker_connections 4096; }}
            http {{
                access_log off;
                client_body_temp_path {home_path}/body;
                proxy_temp_path {home_path}/proxy;
                fastcgi_temp_path {home_path}/fastcgi;
                uwsgi_temp_path {home_path}/uwsgi;
                scgi_temp_path {home_path}/scgi;
                {http}
            }}"
        ),
    )?;
    Ok(Cmd::new("nginx").arg("-p").arg(&home).arg("-c").arg(&config).arg("-e").arg(home.join("error.log")))
}

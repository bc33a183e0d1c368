//! A git host on loopback: git's own HTTP backend behind a server of a few lines.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::harness::run;

pub struct GitHost {
    port: u16,
    root: tempfile::TempDir,
}

impl GitHost {
    pub fn start() -> Self {
        let root = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let projects = root.path().to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let projects = projects.clone();
                std::thread::spawn(move || answer(stream.unwrap(), &projects));
            }
        });
        Self { port, root }
    }

    pub fn url(&self, name: &str) -> String {
        format!("http://127.0.0.1:{}/{name}.git", self.port)
    }

    /// A bare repository that has what `from` has at `HEAD`, under `reference`.
    pub fn publish(&self, name: &str, from: &Path, reference: &str) -> PathBuf {
        let bare = self.root.path().join(format!("{name}.git"));
        if !bare.exists() {
            run(Command::new("git").args(["init", "--quiet", "--bare", "--initial-branch", "main"]).arg(&bare));
            fs::write(bare.join("git-daemon-export-ok"), "").unwrap();
        }
        run(Command::new("git")
            .arg("-C")
            .arg(from)
            .args(["push", "--quiet", "--force"])
            .arg(&bare)
            .arg(format!("HEAD:{reference}")));
        bare
    }

    /// Deletes a ref, as when somebody deletes a branch.
    pub fn unpublish(&self, name: &str, reference: &str) {
        let bare = self.root.path().join(format!("{name}.git"));
        run(Command::new("git").arg("-C").arg(bare).args(["update-ref", "-d", reference]));
    }
}

/// One request, as RFC 3875 has a server run a program for it.
fn answer(stream: TcpStream, projects: &Path) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) <= 2 {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let Some(first) = head.first() else { return };
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let field = |name: &str| {
        let found =
            head.iter().filter_map(|line| line.split_once(": ")).find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.to_owned()).unwrap_or_default()
    };
    let body = read_body(&mut reader, &field("content-length"), &field("transfer-encoding"));
    let mut backend = Command::new("git")
        .args(["-c", "uploadpack.allowAnySHA1InWant=true", "http-backend"])
        .env("GIT_PROJECT_ROOT", projects)
        .env("REQUEST_METHOD", method)
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("CONTENT_TYPE", field("content-type"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", field("content-encoding"))
        .env("GIT_PROTOCOL", field("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    backend.stdin.take().unwrap().write_all(&body).unwrap();
    let output = backend.wait_with_output().unwrap().stdout;
    let split = output.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or(output.len());
    let head = String::from_utf8_lossy(&output[..split]).into_owned();
    let status = head.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK");
    let mut stream = stream;
    let _ = write!(stream, "HTTP/1.1 {status}\r\n{head}\r\nConnection: close\r\n\r\n");
    let _ = stream.write_all(output.get(split + 4..).unwrap_or_default());
}

fn read_body(reader: &mut impl BufRead, length: &str, encoding: &str) -> Vec<u8> {
    let mut body = Vec::new();
    if encoding.eq_ignore_ascii_case("chunked") {
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            let size = u64::from_str_radix(line.trim(), 16).unwrap_or(0);
            reader.take(size).read_to_end(&mut body).unwrap();
            reader.read_line(&mut line).unwrap();
            if size == 0 {
                return body;
            }
        }
    }
    reader.take(length.parse().unwrap_or(0)).read_to_end(&mut body).unwrap();
    body
}

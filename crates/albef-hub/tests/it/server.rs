//! A server in the test, which answers as a test wants it to.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]
#![allow(dead_code, reason = "two test programs share it")]

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A request, names of its headers in small letters.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub headers: HashMap<String, String>,
    /// How many requests came before it.
    pub number: usize,
}

impl Request {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Where the wanted range begins.
    pub fn start(&self) -> Option<usize> {
        self.header("range")?.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok()
    }
}

/// A server that lives as long as the test program.
pub struct Server {
    /// `http://127.0.0.1:PORT`.
    pub address: String,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Answers each request, one a connection, with `answer`. What that fails to write is lost.
    pub fn start(
        answer: impl Fn(&Request, &mut TcpStream) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let log = Arc::new(Mutex::new(Vec::new()));
        let (shared, answer) = (log.clone(), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (shared, answer) = (shared.clone(), answer.clone());
                thread::spawn(move || {
                    let mut stream = stream.unwrap();
                    if let Some(mut request) = read(&stream) {
                        let mut log = shared.lock().unwrap();
                        request.number = log.len();
                        log.push(request.clone());
                        drop(log);
                        let _ = answer(&request, &mut stream);
                    }
                });
            }
        });
        Self { address, log }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    let mut words = first.split(' ');
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    for line in lines {
        let line = line.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Some(Request { method, path, headers, number: 0 })
}

/// Writes the head of an answer.
pub fn head(stream: &mut TcpStream, status: u16, headers: &[(&str, &str)]) -> io::Result<()> {
    let mut text = format!("HTTP/1.1 {status} X\r\nConnection: close\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(format!("{text}\r\n").as_bytes())
}

/// Writes a whole answer with its length.
pub fn whole(
    stream: &mut TcpStream,
    status: u16,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<()> {
    let length = body.len().to_string();
    let all = [headers, &[("Content-Length", &*length)]].concat();
    head(stream, status, &all)?;
    stream.write_all(body)
}

/// Answers with a file or the wanted part of it, as servers do: the whole where the validator of the
/// request is another one. At most `limit` bytes, then the connection breaks.
pub fn file(
    request: &Request,
    stream: &mut TcpStream,
    bytes: &[u8],
    etag: &str,
    limit: usize,
) -> io::Result<()> {
    let quoted = format!("\"{etag}\"");
    let same = request.header("if-range").is_none_or(|v| v == quoted);
    let start = request.start().filter(|_| same);
    if start.is_some_and(|s| s >= bytes.len()) {
        let range = format!("bytes */{}", bytes.len());
        return whole(stream, 416, &[("Content-Range", &range)], b"");
    }
    let body = &bytes[start.unwrap_or(0)..];
    let length = body.len().to_string();
    let range = format!("bytes {}-{}/{}", start.unwrap_or(0), bytes.len() - 1, bytes.len());
    let mut headers = vec![("ETag", &*quoted), ("Content-Length", &*length)];
    if start.is_some() {
        headers.push(("Content-Range", &range));
    }
    head(stream, if start.is_some() { 206 } else { 200 }, &headers)?;
    match request.method == "HEAD" {
        true => Ok(()),
        false => stream.write_all(&body[..body.len().min(limit)]),
    }
}

//! The service, as clients meet it: the real program, over real connections.

#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::common::{albef, data, stderr};
use serde_json::{Value, json};

/// A running service; it is stopped at the end.
pub struct Running {
    child: Child,
    address: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer.
pub struct Answer {
    pub status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Answer {
    pub fn json(&self) -> Value {
        let text = String::from_utf8_lossy(&self.body);
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {text}"))
    }

    fn code(&self) -> String {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], self.status);
        assert!(!problem["detail"].as_str().unwrap().is_empty());
        problem["code"].as_str().unwrap().to_owned()
    }
}

impl Running {
    fn start(folder: &Path, more: &[&str]) -> Self {
        let mut command = albef();
        command.arg("serve").arg(folder.join("photos")).arg("--index").arg(folder.join("index"));
        Self::spawn(command.args(more))
    }

    /// `albef serve` with these arguments, at an address of its own.
    pub fn spawn(command: &mut Command) -> Self {
        command.args(["--bind", "127.0.0.1:0"]);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let Some(address) = line.trim().strip_prefix("http://") else {
            panic!("{}", stderr(&child.wait_with_output().unwrap()));
        };
        Self { address: address.to_owned(), child }
    }

    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(120))).unwrap();
        let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head += &format!("Host: {}\r\n", self.address);
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).unwrap();
        // A body that is too large is refused before it has arrived.
        let _ = stream.write_all(body);
        answer(stream)
    }

    fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], b"")
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        let kind = [("Content-Type", "application/json")];
        self.send("POST", path, &kind, body.to_string().as_bytes())
    }

    /// The number of an image that can be used.
    fn image(&self) -> Value {
        self.ok("/v1/search", &json!({"query": "red", "rerank_k": 0}))["results"][0]["id"].clone()
    }

    /// The answer to a request that must succeed.
    fn ok(&self, path: &str, body: &Value) -> Value {
        let answer = self.post(path, body);
        assert_eq!(answer.status, 200, "{path}: {}", String::from_utf8_lossy(&answer.body));
        answer.json()
    }
}

fn answer(stream: TcpStream) -> Answer {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status = line.split(' ').nth(1).unwrap_or_else(|| panic!("`{line}`")).parse().unwrap();
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(": ") else { break };
        headers.insert(name.to_lowercase(), value.to_owned());
    }
    let mut body = Vec::new();
    // Some refusals end the connection.
    let _ = reader.read_to_end(&mut body);
    if headers.get("transfer-encoding").is_some_and(|v| v == "chunked") {
        body = unchunked(&body);
    }
    Answer { status, headers, body }
}

fn unchunked(mut rest: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    loop {
        let end = rest.windows(2).position(|w| w == b"\r\n").unwrap();
        let size = usize::from_str_radix(std::str::from_utf8(&rest[..end]).unwrap(), 16).unwrap();
        if size == 0 {
            return out;
        }
        out.extend_from_slice(&rest[end + 2..end + 2 + size]);
        rest = &rest[end + 4 + size..];
    }
}

/// A folder with nine photos and one broken one.
fn photos() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let photos = dir.path().join("photos");
    std::fs::create_dir(&photos).unwrap();
    data(&photos, 9);
    std::fs::remove_file(photos.join("list.json")).unwrap();
    std::fs::write(photos.join("broken.png"), "no image").unwrap();
    dir
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for part in bytes.chunks(3) {
        let word = [part[0], *part.get(1).unwrap_or(&0), *part.get(2).unwrap_or(&0)];
        let bits = u32::from_be_bytes([0, word[0], word[1], word[2]]);
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i)) as usize & 63] as char;
            out.push(if i <= part.len() { digit } else { '=' });
        }
    }
    out
}

#[test]
fn every_operation_answers_as_its_document_says() {
    let dir = photos();
    let running = Running::start(dir.path(), &[]);
    assert_eq!(running.get("/health").json()["status"], "ok");
    assert_eq!(running.get("/ready").status, 200);
    let index = running.get("/v1/index").json();
    assert_eq!((&index["images"], &index["broken"]), (&json!(9), &json!(1)));
    let models = running.get("/v1/models").json();
    assert_eq!(models["data"][0]["id"], "mini");

    let listed = running.get("/v1/images?top_k=200").json();
    let images = listed["results"].as_array().unwrap();
    assert_eq!((images.len(), &listed["gallery"], &listed["more"]), (9, &json!(9), &json!(false)));
    assert!(images.is_sorted_by_key(|image| -image["date"].as_i64().unwrap()));
    let second = running.get("/v1/images?top_k=4&page=2&min_width=1").json();
    assert_eq!(second["results"].as_array().unwrap()[..], images[4..8]);
    let one = running.get("/v1/images?path=0.png").json();
    assert_eq!(one["results"][0]["name"], "0.png");
    let same = running.get(&format!("/v1/images?id={}", one["results"][0]["id"])).json();
    assert_eq!(same["results"], one["results"]);
    assert_eq!(running.get("/v1/images?id=77").json()["results"], json!([]));
    assert_eq!(running.get("/v1/images?min_width=x").code(), "invalid_request");

    let found = running.ok("/v1/search", &json!({"query": "a red square", "top_k": 4}));
    let hits = found["results"].as_array().unwrap();
    assert_eq!((hits.len(), &found["gallery"], &found["more"]), (4, &json!(9), &json!(true)));
    assert!(hits.iter().all(|hit| hit["probability"].is_f64() && hit["path"].is_null()));
    let next = running.ok("/v1/search", &json!({"query": "a red square", "top_k": 4, "page": 2}));
    assert_ne!(next["results"][0]["id"], hits[0]["id"]);
    let filtered = json!({"query": "red", "filter": {"paths": ["0.png", "1.png"], "min_width": 1}});
    assert_eq!(running.ok("/v1/search", &filtered)["results"].as_array().unwrap().len(), 2);

    let id = hits[0]["id"].as_i64().unwrap();
    let image = running.get(&format!("/v1/images/{id}?size=16"));
    assert_eq!((image.status, &*image.headers["content-type"]), (200, "image/jpeg"));
    assert!(image.body.starts_with(b"\xff\xd8"));
    let like = running.ok("/v1/similar", &json!({"image": {"id": id}, "top_k": 9}));
    // Itself; the vectors of the index have fewer digits, so that another may be as near.
    let cosine = |hit: &Value| hit["cosine"].as_f64().unwrap();
    let like = like["results"].as_array().unwrap();
    let own = like.iter().find(|hit| hit["id"] == id).unwrap();
    assert!(cosine(own) > 0.999 && cosine(&like[0]) - cosine(own) < 1e-3, "{like:?}");

    // An image of the index, as a file and in a form, is the same image.
    let name = hits[0]["name"].as_str().unwrap();
    let bytes = std::fs::read(dir.path().join("photos").join(name)).unwrap();
    let by_id = running.ok("/v1/match", &json!({"image": {"id": id}, "text": "a red square"}));
    let file = json!({"image": {"base64": base64(&bytes)}, "text": "a red square"});
    assert_eq!(running.ok("/v1/match", &file), by_id);
    let mut form =
        b"--x\r\nContent-Disposition: form-data; name=\"text\"\r\n\r\na red square\r\n".to_vec();
    form.extend(
        b"--x\r\nContent-Disposition: form-data; name=\"image\"; filename=\"a.png\"\r\n\r\n",
    );
    form.extend(&bytes);
    form.extend(b"\r\n--x--\r\n");
    let kind = [("Content-Type", "multipart/form-data; boundary=x")];
    assert_eq!(running.send("POST", "/v1/match", &kind, &form).json(), by_id);
    assert!(
        (hits[0]["probability"].as_f64().unwrap() - by_id["probability"].as_f64().unwrap()).abs()
            < 1e-3
    );

    let rows = running.ok(
        "/v1/embed",
        &json!({"images": [{"id": id}], "texts": ["a dog", "a red square"],
                "pairs": [{"image": {"id": id}, "text": "a dog"}]}),
    );
    let length = |row: &Value| -> f64 {
        row.as_array().unwrap().iter().map(|v| v.as_f64().unwrap().powi(2)).sum()
    };
    assert!((length(&rows["images"][0]) - 1.0).abs() < 1e-4);
    assert_eq!(
        (rows["texts"].as_array().unwrap().len(), rows["pairs"].as_array().unwrap().len()),
        (2, 1)
    );
    let usual =
        running.ok("/v1/embeddings", &json!({"model": "text-embedding-3", "input": ["a dog"]}));
    assert_eq!(usual["data"][0]["embedding"], rows["texts"][0]);
    assert!(usual["usage"]["prompt_tokens"].as_u64().unwrap() > 1);
    let packed = json!({"input": "a dog", "encoding_format": "base64"});
    assert!(running.ok("/v1/embeddings", &packed)["data"][0]["embedding"].is_string());

    let ranked = json!({"query": "a red square", "images": [{"id": hits[3]["id"]}, {"id": id}]});
    let ranked = running.ok("/rerank", &ranked);
    assert!(ranked[0]["score"].as_f64().unwrap() >= ranked[1]["score"].as_f64().unwrap());
    let texts = json!({"query": "a dog", "texts": ["a car", "a dog"], "return_text": true});
    assert_eq!(running.ok("/rerank", &texts)[0]["text"], "a dog");
    let classes = json!({"image": {"id": id}, "labels": ["red", "green", "blue"]});
    let classes = running.ok("/v1/classify", &classes);
    let sum: f64 = classes["classes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["probability"].as_f64().unwrap())
        .sum();
    assert!((sum - 1.0).abs() < 1e-4);
    let ground = json!({"image": {"id": id}, "phrase": "a red square", "words": true});
    let ground = running.ok("/v1/ground", &ground);
    let grid = ground["grid"].as_u64().unwrap() as usize;
    assert_eq!(ground["map"].as_array().unwrap().len(), grid * grid);
    assert!(ground["words"].as_array().unwrap().len() >= 3);
    assert!(ground["overlay"].as_str().unwrap().starts_with("iVBOR"), "a PNG");

    // What the document lists is there, and what was asked is counted.
    let document = running.get("/openapi.json").json();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            let path = path.replace("{id}", &id.to_string());
            let answer = running.send(&method.to_uppercase(), &path, &[], b"");
            assert!(
                ![404, 405, 500].contains(&answer.status),
                "{method} {path}: {}",
                answer.status
            );
        }
    }
    let metrics = running.get("/metrics");
    let text = String::from_utf8(metrics.body).unwrap();
    assert!(
        text.contains(r#"albef_requests_total{operation="/v1/search",status="200"} 3"#),
        "{text}"
    );
    assert!(text.contains("albef_compute_seconds_bucket{le=\"+Inf\"}"));
}

#[test]
fn what_cannot_be_answered_has_a_stable_code() {
    let dir = photos();
    let running = Running::start(dir.path(), &["--max-body", "1", "--max-items", "3"]);
    let (many, id) = (["x"; 4], running.image());
    for (path, body, status, code) in [
        ("/v1/match", json!({"image": {"id": id}}), 400, "invalid_request"),
        ("/v1/match", json!({"image": {}, "text": "a"}), 400, "invalid_request"),
        (
            "/v1/match",
            json!({"image": {"id": id, "base64": ""}, "text": "a"}),
            400,
            "invalid_request",
        ),
        ("/v1/match", json!({"image": {"base64": "!"}, "text": "a"}), 400, "invalid_request"),
        ("/v1/match", json!({"image": {"base64": "aGVsbG8="}, "text": "a"}), 422, "invalid_image"),
        ("/v1/match", json!({"image": {"id": id}, "text": " "}), 422, "empty_text"),
        ("/v1/match", json!({"image": {"id": 77}, "text": "a"}), 404, "unknown_image"),
        (
            "/v1/match",
            json!({"image": {"path": "/etc/passwd"}, "text": "a"}),
            400,
            "invalid_request",
        ),
        (
            "/v1/match",
            json!({"image": {"id": id}, "text": "a", "model": "x"}),
            404,
            "unknown_model",
        ),
        ("/v1/embed", json!({"texts": many}), 413, "too_large"),
        ("/v1/embed", json!({"texts": ["x".repeat(2 << 20)]}), 413, "too_large"),
        ("/v1/embed", json!([1]), 400, "invalid_request"),
        ("/v1/embeddings", json!({"input": "a", "dimensions": 4}), 400, "invalid_request"),
        ("/v1/search", json!({}), 422, "invalid_argument"),
        ("/v1/search", json!({"query": "a", "top_k": 0}), 400, "invalid_request"),
        ("/v1/search", json!({"query": "a", "page": 99_999_999}), 400, "invalid_request"),
        (
            "/v1/search",
            json!({"query": "a", "filter": {"from": "2024-02-30"}}),
            400,
            "invalid_request",
        ),
        ("/v1/search", json!({"query": "a", "filter": {"paths": ["["]}}), 422, "invalid_argument"),
        ("/v1/classify", json!({"image": {"id": id}, "labels": []}), 422, "invalid_argument"),
        (
            "/v1/ask",
            json!({"image": {"id": id}, "question": "a?", "answers": ["b"]}),
            404,
            "unknown_model",
        ),
        ("/rerank", json!({"query": "a"}), 422, "invalid_argument"),
        ("/v1/none", json!({}), 404, "not_found"),
    ] {
        let answer = running.post(path, &body);
        assert_eq!((answer.status, &*answer.code()), (status, code), "{path} {body}");
    }
    let deep = format!("{{\"texts\": {}", "[".repeat(100_000));
    let kind = [("Content-Type", "application/json")];
    assert_eq!(running.send("POST", "/v1/embed", &kind, deep.as_bytes()).code(), "invalid_request");
    assert_eq!(running.send("POST", "/v1/embed", &[], b"{}").code(), "unsupported_media_type");
    let kind = [("Content-Type", "text/plain")];
    assert_eq!(running.send("POST", "/v1/embed", &kind, b"{}").code(), "unsupported_media_type");
    assert_eq!(running.get("/v1/embed").code(), "method_not_allowed");
    for path in ["/v1/images/x", "/v1/images/2?size=0", "/v1/images/2?size=x"] {
        assert_eq!(running.get(path).code(), "invalid_request", "{path}");
    }
    for path in
        ["/v1/images/99", "/v1/images/..%2f..%2fetc%2fpasswd", "/../../etc/passwd", "/app.js/.."]
    {
        assert!([400, 404].contains(&running.get(path).status), "{path}");
    }
    // A page of another site, and a name by which such a page could reach this machine.
    for headers in [[("Origin", "http://evil.example")], [("Host", "evil.example")]] {
        assert_eq!(running.send("GET", "/v1/index", &headers, b"").code(), "forbidden");
    }
    // Half a request is no request; the others are answered meanwhile.
    let mut slow = TcpStream::connect(&running.address).unwrap();
    slow.write_all(b"POST /v1/embed HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Le").unwrap();
    assert_eq!(running.get("/health").status, 200);
}

#[test]
fn a_key_opens_and_nothing_else_does() {
    let dir = photos();
    let file = dir.path().join("keys");
    std::fs::write(&file, "# of the team\nsecret-1\nsecret-2\n").unwrap();
    let running = Running::start(dir.path(), &["--keys", &file.display().to_string()]);
    for (headers, status) in [
        (&[][..], 401),
        (&[("Authorization", "Bearer secret-3")][..], 401),
        (&[("Authorization", "Bearer secret-2")], 200),
        (&[("X-API-Key", "secret-1")], 200),
    ] {
        let answer = running.send("GET", "/v1/index", headers, b"");
        assert_eq!(answer.status, status, "{headers:?}");
        assert_eq!(answer.headers.contains_key("www-authenticate"), status == 401);
    }
    for open in ["/", "/app.js", "/app.css", "/health", "/ready", "/openapi.json"] {
        assert_eq!(running.get(open).status, 200, "{open}");
    }
    for closed in ["/metrics", "/v1/models", "/v1/images/1"] {
        assert_eq!(running.get(closed).code(), "unauthorized", "{closed}");
    }
    drop(running);

    // Behind a proxy that passes the name on by which it is reached.
    let keys = file.display().to_string();
    let running = Running::start(dir.path(), &["--host", "photos.example", "--keys", &keys]);
    for (host, origin, status) in [
        ("photos.example", "https://photos.example", 200),
        ("photos.example", "https://other.example", 403),
        ("other.example", "https://other.example", 403),
    ] {
        let sent = [("Host", host), ("Origin", origin), ("X-API-Key", "secret-1")];
        assert_eq!(running.send("GET", "/v1/index", &sent, b"").status, status, "{host} {origin}");
    }
    let page = running.get("/");
    assert!(page.headers["content-security-policy"].starts_with("default-src 'none'"));

    let mut open = albef();
    open.args(["serve", "--bind", "0.0.0.0:0"]).env_remove("ALBEF_API_KEYS");
    let output = open.output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("--keys FILE"), "{}", stderr(&output));
}

#[test]
fn beyond_its_permits_it_says_so_at_once_and_loses_nothing() {
    let dir = photos();
    let running = Running::start(dir.path(), &["--permits", "2"]);
    let id = running.image();
    let body = json!({"image": {"id": id}, "phrase": "a red square in green", "words": true});
    let answers: Vec<(u16, Duration, bool)> = std::thread::scope(|scope| {
        let ask = || {
            let started = Instant::now();
            let answer = running.post("/v1/ground", &body);
            (answer.status, started.elapsed(), answer.headers.contains_key("retry-after"))
        };
        let threads: Vec<_> = (0..24).map(|_| scope.spawn(ask)).collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    let count = |status| answers.iter().filter(|(found, _, _)| *found == status).count();
    assert_eq!(count(200) + count(429), 24, "{answers:?}");
    assert!(count(200) >= 2 && count(429) > 0, "{answers:?}");
    assert!(answers.iter().all(|(status, _, retry)| (*status == 429) == *retry));
    // Afterwards it is as before.
    assert_eq!(running.post("/v1/ground", &body).status, 200);
}

#[test]
fn what_was_accepted_is_finished_before_it_stops() {
    let dir = photos();
    let mut running = Running::start(dir.path(), &[]);
    let process = running.child.id().to_string();
    let id = running.image();
    let body = json!({"image": {"id": id}, "phrase": "a red square in green", "words": true});
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..6).map(|_| scope.spawn(|| running.post("/v1/ground", &body).status)).collect();
        // Once they are all accepted.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(20) {
            let text = String::from_utf8(running.get("/metrics").body).unwrap();
            let taken = text.lines().find_map(|l| l.strip_prefix("albef_permits_taken "));
            if taken.is_some_and(|n| n.parse::<u32>().unwrap() >= 1) {
                break;
            }
        }
        std::thread::sleep(Duration::from_millis(200));
        let killed = std::process::Command::new("kill").args(["-TERM", &process]).status().unwrap();
        assert!(killed.success());
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert_eq!(statuses, [200; 6]);
    assert_eq!(running.child.wait().unwrap().code(), Some(0));
    assert!(TcpStream::connect(&running.address).is_err());
}

#[test]
fn a_folder_is_served_without_the_rest_of_its_index() {
    let dir = photos();
    let public = dir.path().join("photos/public");
    std::fs::create_dir(&public).unwrap();
    data(&public, 12);
    // Three of their own, and one that is a copy of an image beside.
    for name in (1..9).map(|i| format!("{i}.png")).chain(["list.json".into()]) {
        std::fs::remove_file(public.join(name)).unwrap();
    }
    let all: Vec<(i64, bool)> = {
        let running = Running::start(dir.path(), &[]);
        let found = running.ok("/v1/search", &json!({"query": "red", "rerank_k": 0, "top_k": 99}));
        let hits = found["results"].as_array().unwrap();
        let of = |hit: &Value| {
            (hit["id"].as_i64().unwrap(), hit["name"].as_str().unwrap().starts_with("public/"))
        };
        hits.iter().map(of).collect()
    };
    assert!(all.len() > 3 && all.iter().any(|(_, public)| *public), "{all:?}");
    let mut command = albef();
    command.arg("serve").arg(&public).arg("--index").arg(dir.path().join("index"));
    let running = Running::spawn(&mut command);
    assert_eq!(running.get("/v1/index").json()["images"], 4);
    let found = running.ok("/v1/search", &json!({"query": "red", "rerank_k": 3, "top_k": 99}));
    let hits = found["results"].as_array().unwrap();
    assert_eq!((&found["gallery"], hits.len()), (&json!(4), 4), "{found}");
    for hit in hits {
        assert!(hit["name"].as_str().unwrap().starts_with("public/"), "{hit}");
    }
    for (id, public) in all {
        let status = if public { 200 } else { 404 };
        assert_eq!(running.get(&format!("/v1/images/{id}")).status, status);
        let image = json!({"id": id});
        for (path, body) in [
            ("/v1/similar", json!({"image": image})),
            ("/v1/match", json!({"image": image, "text": "red"})),
            ("/v1/ground", json!({"image": image, "phrase": "red"})),
            ("/v1/classify", json!({"image": image, "labels": ["red", "blue"]})),
            ("/v1/embed", json!({"images": [image]})),
            ("/v1/search", json!({"like": [image]})),
        ] {
            let answer = running.post(path, &body);
            let said = String::from_utf8_lossy(&answer.body);
            assert_eq!(answer.status, status, "{path} {id}: {said}");
        }
    }
}

#[test]
fn a_watching_service_shows_what_is_new() {
    let dir = photos();
    let running = Running::start(dir.path(), &["--watch", "1"]);
    assert_eq!(running.get("/v1/index").json()["images"], 9);
    let new = dir.path().join("photos/new.png");
    std::fs::copy(dir.path().join("photos/1.png"), &new).unwrap();
    std::fs::remove_file(dir.path().join("photos/2.png")).unwrap();
    let names = || -> Vec<String> {
        let listed = running.get("/v1/images?top_k=99").json();
        let all = listed["results"].as_array().unwrap();
        all.iter().map(|image| image["name"].as_str().unwrap().to_owned()).collect()
    };
    let is_new = |names: &[String]| {
        names.iter().any(|name| name == "new.png") && !names.iter().any(|name| name == "2.png")
    };
    let end = Instant::now() + Duration::from_secs(60);
    while !is_new(&names()) {
        assert!(Instant::now() < end, "{:?}", names());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(names().len(), 9);
}

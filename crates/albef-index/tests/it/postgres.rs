//! The index in PostgreSQL, against a real server.

use std::path::PathBuf;

use albef_index::{Database, Embedded, Encoder, Filter, Identity, IndexError, Postgres, Store};

use crate::common::{Colors, WIDTH, contents, index, put, update_all};
use crate::conformance;

/// The server to be tested against. Without one nothing is tested, unless `ALBEF_REQUIRE_POSTGRES` asks for it.
fn server() -> Option<String> {
    let url = std::env::var("ALBEF_TEST_POSTGRES").ok().filter(|url| !url.is_empty());
    let required = std::env::var_os("ALBEF_REQUIRE_POSTGRES").is_some_and(|v| v == "1");
    assert!(url.is_some() || !required, "ALBEF_TEST_POSTGRES must name a server (postgres://…)");
    url
}

/// An empty schema of this test.
fn fresh(url: &str, name: &str, identity: &Identity) -> Postgres {
    let schema = format!("albef_test_{}_{name}", std::process::id());
    let mut client = postgres::Client::connect(url, postgres::NoTls).unwrap();
    client.batch_execute(&format!("DROP SCHEMA IF EXISTS {schema} CASCADE")).unwrap();
    Postgres::open(&Database::new(url, &schema).unwrap(), identity).unwrap()
}

#[test]
fn it_is_a_store() {
    let Some(url) = server() else { return };
    for (i, (name, check)) in conformance::CHECKS.into_iter().enumerate() {
        println!("{name}");
        check(&fresh(&url, &format!("store{i}"), &conformance::identity()));
    }
}

#[test]
fn a_deleted_index_is_gone_and_can_be_made_anew() {
    let Some(url) = server() else { return };
    let encoder = Colors::default();
    let schema = format!("albef_test_{}_deleted", std::process::id());
    let store = fresh(&url, "deleted", &encoder.identity());
    store.add_root(b"/photos").unwrap();
    store.delete().unwrap();
    let database = Database::new(&url, &schema).unwrap();
    assert!(!Postgres::exists(&database).unwrap());
    let again = Postgres::open(&database, &encoder.identity()).unwrap();
    assert_eq!(again.roots().unwrap(), []);
}

#[test]
fn both_stores_hold_the_same() {
    let Some(url) = server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let photos = dir.path().join("photos");
    for i in 0..50 {
        put(&photos, &format!("{}/{i}.png", i % 3), i);
    }
    let encoder = Colors::default();
    let store = fresh(&url, "same", &encoder.identity());
    let top = photos.canonicalize().unwrap();
    store.add_root(top.as_os_str().as_encoded_bytes()).unwrap();
    assert_eq!(update_all(&store, &encoder).added, 50);
    std::fs::rename(photos.join("0/0.png"), photos.join("moved.png")).unwrap();
    std::fs::remove_file(photos.join("1/1.png")).unwrap();
    let done = update_all(&store, &encoder);
    assert_eq!((done.moved, done.forgotten, done.encoded), (1, 1, 0));
    let (embedded, _): (Embedded, _) = index(&dir.path().join("index"), &photos, &encoder);
    assert_eq!(contents(&store), contents(&embedded));
    let query: Vec<f32> = (0..WIDTH).map(|i| (i as f32).sin()).collect();
    let found = |store: &dyn Store| -> Vec<(PathBuf, f32)> {
        let found = store.top_k(&query, 20, &Filter::default()).unwrap();
        let ids: Vec<i64> = found.iter().map(|f| f.id).collect();
        let records = store.get(&ids).unwrap();
        let path = |record: &Option<albef_index::Record>| {
            albef_index::path_of(&record.as_ref().unwrap().image.path)
        };
        records.iter().zip(found).map(|(r, f)| (path(r), f.score)).collect()
    };
    for (one, other) in found(&store).iter().zip(found(&embedded)) {
        assert!(one.0 == other.0 && (one.1 - other.1).abs() < 1e-5, "{one:?} {other:?}");
    }
}

#[test]
fn another_model_and_impossible_names_are_refused_and_damage_is_found() {
    let Some(url) = server() else { return };
    let identity = conformance::identity();
    let store = fresh(&url, "refused", &identity);
    let schema = format!("albef_test_{}_refused", std::process::id());
    let other = Identity { fingerprint: "other".into(), ..identity.clone() };
    let error = Postgres::open(&Database::new(&url, &schema).unwrap(), &other).unwrap_err();
    assert!(matches!(error, IndexError::OtherModel { .. }), "{error}");
    let error = Database::new(&url, "x; DROP TABLE y").unwrap_err();
    assert!(error.to_string().contains("name of a schema"), "{error}");
    conformance::CHECKS[1].1(&store);
    let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
    client
        .batch_execute(&format!("UPDATE {schema}.image SET width = 3 WHERE path = 'a.jpg'"))
        .unwrap();
    assert_eq!(store.verify().unwrap().damaged.len(), 1);
}

#[test]
fn many_write_at_once_and_a_lost_connection_is_made_again() {
    let Some(url) = server() else { return };
    let identity = conformance::identity();
    let store = fresh(&url, "many", &identity);
    let schema = format!("albef_test_{}_many", std::process::id());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let own =
                    Postgres::open(&Database::new(&url, &schema).unwrap(), &identity).unwrap();
                for i in 0..20 {
                    own.add_root(format!("/{i}").as_bytes()).unwrap();
                }
            });
        }
    });
    assert_eq!(store.roots().unwrap().len(), 20);
    assert_eq!(store.info().unwrap().generation, 80);
    let mut client = postgres::Client::connect(&url, postgres::NoTls).unwrap();
    // Only this test's connections: others run beside it on the same server.
    let ended = client
        .execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1",
            &[&format!("albef {schema}")],
        )
        .unwrap();
    assert!(ended >= 1, "its connection has no name");
    // The call that finds the connection lost may fail; the next one has a new one.
    let _ = store.info();
    assert_eq!(store.info().unwrap().generation, 80);
}

#[test]
fn a_connection_is_encrypted_and_the_server_has_to_prove_its_name() {
    let Some(plain) = server() else { return };
    let of = |name: &str| std::env::var(name).unwrap();
    let (url, root) = (of("ALBEF_TEST_POSTGRES_TLS"), of("ALBEF_TEST_POSTGRES_ROOT"));
    let identity = conformance::identity();
    drop(fresh(&plain, "tls", &identity));
    let schema = format!("schema=albef_test_{}_tls", std::process::id());
    let open = |url: &str, parameters: &str| {
        let database = Database::parse(&format!("{url}?{schema}&{parameters}")).unwrap();
        Postgres::open(&database, &identity)
    };
    let trusted = format!("sslmode=verify-full&sslrootcert={root}");
    conformance::CHECKS[1].1(&open(&url, &trusted).unwrap());
    let refused = |url: &str, parameters: &str, reason: &str| {
        let error = open(url, parameters).unwrap_err().to_string();
        assert!(error.contains(reason), "{parameters}: {error}");
    };
    // A root that the system does not know, another name, no encryption on one of both sides, no certificates.
    refused(&url, "sslmode=verify-full", "certificate");
    let by_address = url.replace("localhost", "127.0.0.1");
    refused(&by_address, &trusted, "certificate");
    assert!(open(&url, "sslmode=disable").is_err());
    let (address, socket) = plain.split_once('?').unwrap();
    refused(address, &format!("{socket}&{trusted}"), "TLS");
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let none = format!("sslmode=require&sslrootcert={}", empty.display());
    refused(&url, &none, "there is none in this file");
}

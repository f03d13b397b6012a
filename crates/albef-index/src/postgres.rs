//! The index of several machines: PostgreSQL with the extension pgvector.
//!
//! One schema of a database is one index. Vectors are rounded to f16 and kept as `vector`, so that both stores give
//! the same scores, and every version of pgvector will do. The scan is exact: there is no approximate index. Any
//! number of processes may write; the row of the generation makes their transactions follow each other.

use std::sync::{Mutex, PoisonError};

use half::f16;
use postgres::types::ToSql;
use postgres::{Client, GenericClient, NoTls, Row, Transaction};

use crate::checksum::{record_crc, vector_crc};
use crate::database::Database;
use crate::embedded::Identity;
use crate::encryption::connector;
use crate::error::{IndexError, Result};
use crate::record::{Change, ContentHash, Filter, Image, ImageId, Record, Root, RootId, Status};
use crate::store::{Scored, Store, StoreInfo, Verification, by_scan, check_vector};

/// Version of the tables.
const FORMAT: i32 = 1;
/// Images that are read at a time.
const PAGE: i64 = 4096;
/// Problems that are named one by one.
const SHOWN: usize = 5;

const COLUMNS: &str = "id, root, path, size, modified, settled, hash, width, height, taken, camera, perceptual, broken";

/// An index in a schema of a PostgreSQL database. Where the server goes away, calls fail, and the next one connects
/// again.
pub struct Postgres {
    database: Database,
    width: usize,
    client: Mutex<Client>,
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Postgres").field("database", &self.database).finish_non_exhaustive()
    }
}

fn connect(database: &Database) -> Result<Client> {
    let fail = |e| error(database, &e);
    let client = match &database.encrypted {
        None => Client::connect(&database.url, NoTls),
        Some(roots) => Client::connect(&database.url, connector(database, roots)?),
    };
    let mut client = client.map_err(fail)?;
    // The name tells who administers the server which connections belong to which index.
    let sql = format!(
        "SET search_path TO {schema}, public; SET application_name TO 'albef {schema}'",
        schema = database.schema
    );
    client.batch_execute(&sql).map_err(fail)?;
    Ok(client)
}

/// What the server said, without the URL.
fn error(database: &Database, e: &postgres::Error) -> IndexError {
    use postgres::error::SqlState;
    let place = database.to_string();
    // The message of the server is in its source only.
    let cause = match std::error::Error::source(e) {
        Some(source) => format!("{e}: {source}"),
        None => e.to_string(),
    };
    match e.code() {
        Some(&SqlState::DISK_FULL) => IndexError::NoSpace { path: place.into(), cause },
        _ => IndexError::Database { place, cause },
    }
}

impl Postgres {
    /// Opens the index in a schema, and makes it if there is none. The extension `vector` is created if the user may do
    /// so.
    ///
    /// # Errors
    /// [`IndexError::Database`], [`IndexError::OtherModel`], [`IndexError::NewerFormat`].
    pub fn open(database: &Database, identity: &Identity) -> Result<Self> {
        let store = Self::made(database, identity)?;
        crate::embedded::check_identity(&store, identity)?;
        Ok(store)
    }

    /// The same for an index that may be of another model: its images are then forgotten, its folders are not.
    ///
    /// # Errors
    /// As [`Postgres::open`].
    pub fn open_anew(database: &Database, identity: &Identity) -> Result<Self> {
        let mut store = Self::made(database, identity)?;
        if crate::embedded::check_identity(&store, identity).is_ok() {
            return Ok(store);
        }
        let width = i32::try_from(identity.width).unwrap_or(i32::MAX);
        store.transaction(|transaction| {
            let fail = |e: postgres::Error| error(database, &e);
            transaction.execute("DELETE FROM image", &[]).map_err(fail)?;
            let sql = format!("ALTER TABLE image ALTER COLUMN vec TYPE vector({width})");
            transaction.batch_execute(&sql).map_err(fail)?;
            transaction
                .execute(
                    "UPDATE meta SET fingerprint = $1, model = $2, width = $3",
                    &[&identity.fingerprint, &identity.model, &width],
                )
                .map_err(fail)?;
            Ok(())
        })?;
        store.width = identity.width;
        Ok(store)
    }

    /// Opens the index in a schema, whatever its model.
    ///
    /// # Errors
    /// [`IndexError::Database`] also if there is none, [`IndexError::NewerFormat`].
    pub fn read(database: &Database) -> Result<Self> {
        let mut client = connect(database)?;
        if !is_there(&mut client, &database.schema).map_err(|e| error(database, &e))? {
            return Err(IndexError::Database {
                place: database.to_string(),
                cause: "there is no index here; hint: `albef index FOLDER --store …` makes one"
                    .into(),
            });
        }
        Self::of(database, client)
    }

    /// Deletes the tables of the index.
    ///
    /// # Errors
    /// [`IndexError::Database`].
    pub fn delete(self) -> Result<()> {
        self.with(|client| {
            client.batch_execute("DROP TABLE image, root, meta").map_err(|e| self.fail(&e))
        })
    }

    /// Whether there is an index in a schema.
    ///
    /// # Errors
    /// [`IndexError::Database`].
    pub fn exists(database: &Database) -> Result<bool> {
        is_there(&mut connect(database)?, &database.schema).map_err(|e| error(database, &e))
    }

    fn made(database: &Database, identity: &Identity) -> Result<Self> {
        let mut client = connect(database)?;
        create(&mut client, &database.schema, identity).map_err(|e| error(database, &e))?;
        Self::of(database, client)
    }

    /// The index that a connection sees.
    fn of(database: &Database, mut client: Client) -> Result<Self> {
        let row = client
            .query_one("SELECT format, width FROM meta", &[])
            .map_err(|e| error(database, &e))?;
        let (found, width): (i32, i32) = (row.get(0), row.get(1));
        if found > FORMAT {
            return Err(IndexError::NewerFormat {
                place: database.to_string(),
                found: found.cast_unsigned(),
                known: FORMAT.cast_unsigned(),
            });
        }
        Ok(Self {
            database: database.clone(),
            width: usize::try_from(width).unwrap_or(0),
            client: Mutex::new(client),
        })
    }

    fn fail(&self, e: &postgres::Error) -> IndexError {
        error(&self.database, e)
    }

    /// Works with the connection, which is made anew where it was lost.
    fn with<T>(&self, work: impl FnOnce(&mut Client) -> Result<T>) -> Result<T> {
        let mut client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        if client.is_closed() {
            *client = connect(&self.database)?;
        }
        work(&mut client)
    }

    fn query(&self, sql: &str, values: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>> {
        self.with(|client| client.query(sql, values).map_err(|e| self.fail(&e)))
    }

    /// Runs `change` in a transaction and counts the generation up, which keeps other writers waiting.
    fn transaction<T>(&self, change: impl FnOnce(&mut Transaction<'_>) -> Result<T>) -> Result<T> {
        self.with(|client| {
            let mut transaction = client.transaction().map_err(|e| self.fail(&e))?;
            transaction
                .execute("UPDATE meta SET generation = generation + 1", &[])
                .map_err(|e| self.fail(&e))?;
            let result = change(&mut transaction)?;
            transaction.commit().map_err(|e| self.fail(&e))?;
            Ok(result)
        })
    }

    fn upsert(
        &self,
        transaction: &mut Transaction<'_>,
        image: &Image,
        vector: Option<&Vec<f16>>,
    ) -> Result<ImageId> {
        let values: Option<Vec<f32>> = vector.map(|v| v.iter().map(|x| x.to_f32()).collect());
        let broken = match &image.status {
            Status::Ok => None,
            // The only character that the database has not.
            Status::Broken(reason) => Some(reason.replace('\0', "\u{fffd}")),
        };
        let status = broken.clone().map_or(Status::Ok, Status::Broken);
        let crc = vector.map_or(0, |v| vector_crc(v));
        // Without the number, which the row gets as it is written.
        let record = record_crc(0, &Image { status, ..image.clone() }, crc);
        let row = transaction.query_one(
            "INSERT INTO image(root, path, size, modified, settled, hash, width, height, taken, camera, \
             perceptual, broken, vec, vector_crc, record_crc) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13::real[]::vector, $14, $15) \
             ON CONFLICT (root, path) DO UPDATE SET size = excluded.size, modified = excluded.modified, \
             settled = excluded.settled, hash = excluded.hash, width = excluded.width, \
             height = excluded.height, taken = excluded.taken, camera = excluded.camera, \
             perceptual = excluded.perceptual, broken = excluded.broken, vec = excluded.vec, \
             vector_crc = excluded.vector_crc, record_crc = excluded.record_crc RETURNING id",
            &[
                &image.root,
                &image.path,
                &image.size.cast_signed(),
                &image.modified,
                &image.settled,
                &image.hash.as_slice(),
                &i64::from(image.width),
                &i64::from(image.height),
                &image.taken,
                &image.camera,
                &image.perceptual.cast_signed(),
                &broken,
                &values,
                &i64::from(crc),
                &i64::from(record),
            ],
        );
        Ok(row.map_err(|e| self.fail(&e))?.get(0))
    }

    fn move_to(
        &self,
        transaction: &mut Transaction<'_>,
        id: ImageId,
        place: (RootId, &Vec<u8>),
        modified: i64,
        settled: bool,
    ) -> Result<ImageId> {
        let fail = |e: postgres::Error| self.fail(&e);
        let sql = format!("SELECT {COLUMNS}, vector_crc FROM image WHERE id = $1");
        let row = transaction.query_opt(&sql, &[&id]).map_err(fail)?;
        let row = row.ok_or(IndexError::UnknownImage { id })?;
        let (root, path) = place;
        let image = Image { root, path: path.clone(), modified, settled, ..image(&row) };
        let crc = u32::try_from(row.get::<_, i64>(13)).unwrap_or(0);
        let record = i64::from(record_crc(0, &image, crc));
        transaction
            .execute(
                "DELETE FROM image WHERE root = $1 AND path = $2 AND id <> $3",
                &[&root, path, &id],
            )
            .map_err(fail)?;
        transaction
            .execute(
                "UPDATE image SET root = $2, path = $3, modified = $4, settled = $5, record_crc = $6 \
                 WHERE id = $1",
                &[&id, &root, path, &modified, &settled, &record],
            )
            .map_err(fail)?;
        Ok(id)
    }

    /// The rows with a number above `after`, by number, with their vectors and checksums.
    fn page(&self, after: ImageId, also: &str) -> Result<Vec<Row>> {
        let sql =
            format!("SELECT {COLUMNS}{also} FROM image WHERE id > $1 ORDER BY id LIMIT {PAGE}");
        self.query(&sql, &[&after])
    }
}

/// Whether a schema has the tables of an index.
fn is_there(client: &mut impl GenericClient, schema: &str) -> Result<bool, postgres::Error> {
    let found = client.query_opt(
        "SELECT 1 FROM information_schema.tables WHERE table_schema = $1 AND table_name = 'meta'",
        &[&schema],
    )?;
    Ok(found.is_some())
}

/// Makes the schema where there is none. Two processes may do so at once.
fn create(client: &mut Client, schema: &str, identity: &Identity) -> Result<(), postgres::Error> {
    let mut transaction = client.transaction()?;
    // Until the end of the transaction; the number is of this program alone.
    transaction.execute("SELECT pg_advisory_xact_lock(7205759403792793)", &[])?;
    if is_there(&mut transaction, schema)? {
        return transaction.commit();
    }
    let width = identity.width;
    transaction.batch_execute(&format!(
        "CREATE EXTENSION IF NOT EXISTS vector;
         CREATE SCHEMA IF NOT EXISTS {schema};
         CREATE TABLE {schema}.meta(
             format integer NOT NULL, fingerprint text NOT NULL, model text NOT NULL,
             width integer NOT NULL, generation bigint NOT NULL);
         CREATE TABLE {schema}.root(
             id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, path bytea NOT NULL UNIQUE);
         CREATE TABLE {schema}.image(
             id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
             root bigint NOT NULL REFERENCES {schema}.root(id),
             path bytea NOT NULL, size bigint NOT NULL, modified bigint NOT NULL,
             settled boolean NOT NULL, hash bytea NOT NULL, width bigint NOT NULL,
             height bigint NOT NULL, taken bigint, camera text, perceptual bigint NOT NULL,
             broken text, vec vector({width}), vector_crc bigint NOT NULL,
             record_crc bigint NOT NULL, UNIQUE (root, path));
         CREATE INDEX ON {schema}.image(hash);"
    ))?;
    transaction.execute(
        &format!("INSERT INTO {schema}.meta VALUES ($1, $2, $3, $4, 0)"),
        &[
            &FORMAT,
            &identity.fingerprint,
            &identity.model,
            &i32::try_from(width).unwrap_or(i32::MAX),
        ],
    )?;
    transaction.commit()
}

/// Of [`COLUMNS`].
fn image(row: &Row) -> Image {
    let side = |at: usize| u32::try_from(row.get::<_, i64>(at)).unwrap_or(u32::MAX);
    let hash: &[u8] = row.get(6);
    Image {
        root: row.get(1),
        path: row.get(2),
        size: row.get::<_, i64>(3).cast_unsigned(),
        modified: row.get(4),
        settled: row.get(5),
        hash: hash.try_into().unwrap_or_default(),
        width: side(7),
        height: side(8),
        taken: row.get(9),
        camera: row.get(10),
        perceptual: row.get::<_, i64>(11).cast_unsigned(),
        status: row.get::<_, Option<String>>(12).map_or(Status::Ok, Status::Broken),
    }
}

fn record(row: &Row) -> Record {
    Record { id: row.get(0), image: image(row) }
}

fn halves(values: Vec<f32>) -> Vec<f16> {
    values.into_iter().map(f16::from_f32).collect()
}

impl Store for Postgres {
    fn info(&self) -> Result<StoreInfo> {
        let rows = self.query(
            "SELECT fingerprint, model, width, generation, \
             (SELECT count(*) FROM image WHERE vec IS NOT NULL), \
             (SELECT count(*) FROM image WHERE vec IS NULL), \
             pg_total_relation_size('image') FROM meta",
            &[],
        )?;
        let place = self.database.to_string();
        let Some(row) = rows.first() else {
            return Err(IndexError::damaged(place, "the table `meta` is empty"));
        };
        let number = |at: usize| row.get::<_, i64>(at).cast_unsigned();
        Ok(StoreInfo {
            place,
            fingerprint: row.get(0),
            model: row.get(1),
            width: usize::try_from(row.get::<_, i32>(2)).unwrap_or(0),
            generation: number(3),
            images: number(4),
            broken: number(5),
            bytes: number(6),
            // The server frees it on its own.
            reclaimable: 0,
        })
    }

    fn roots(&self) -> Result<Vec<Root>> {
        let rows = self.query("SELECT id, path FROM root ORDER BY id", &[])?;
        Ok(rows.iter().map(|row| Root { id: row.get(0), path: row.get(1) }).collect())
    }

    fn add_root(&self, path: &[u8]) -> Result<RootId> {
        self.transaction(|transaction| {
            let fail = |e: postgres::Error| self.fail(&e);
            let select = "SELECT id FROM root WHERE path = $1";
            if let Some(row) = transaction.query_opt(select, &[&path]).map_err(fail)? {
                return Ok(row.get(0));
            }
            let insert = "INSERT INTO root(path) VALUES ($1) RETURNING id";
            Ok(transaction.query_one(insert, &[&path]).map_err(fail)?.get(0))
        })
    }

    fn remove_root(&self, id: RootId) -> Result<u64> {
        self.transaction(|transaction| {
            let mut run = |sql: &str| transaction.execute(sql, &[&id]).map_err(|e| self.fail(&e));
            let images = run("DELETE FROM image WHERE root = $1")?;
            run("DELETE FROM root WHERE id = $1")?;
            Ok(images)
        })
    }

    fn apply(&self, changes: &[Change]) -> Result<Vec<ImageId>> {
        for change in changes {
            if let Change::Upsert { image, vector } = change {
                match vector {
                    Some(vector) => check_vector(vector, self.width)?,
                    None if image.status.is_ok() => {
                        return Err(IndexError::Width { found: 0, expected: self.width });
                    }
                    None => {}
                }
            }
        }
        self.transaction(|transaction| {
            let one = |change: &Change| match change {
                Change::Upsert { image, vector } => {
                    self.upsert(transaction, image, vector.as_ref())
                }
                Change::Move { id, root, path, modified, settled } => {
                    self.move_to(transaction, *id, (*root, path), *modified, *settled)
                }
                Change::Forget(id) => transaction
                    .execute("DELETE FROM image WHERE id = $1", &[id])
                    .map(|_| *id)
                    .map_err(|e| self.fail(&e)),
            };
            changes.iter().map(one).collect()
        })
    }

    fn get(&self, ids: &[ImageId]) -> Result<Vec<Option<Record>>> {
        let sql = format!("SELECT {COLUMNS} FROM image WHERE id = ANY($1)");
        let found: std::collections::HashMap<ImageId, Record> =
            self.query(&sql, &[&ids])?.iter().map(|row| (row.get(0), record(row))).collect();
        Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
    }

    fn find(&self, root: RootId, path: &[u8]) -> Result<Option<Record>> {
        let sql = format!("SELECT {COLUMNS} FROM image WHERE root = $1 AND path = $2");
        Ok(self.query(&sql, &[&root, &path])?.first().map(record))
    }

    fn find_content(&self, hash: &ContentHash) -> Result<Option<Record>> {
        let sql = format!(
            "SELECT {COLUMNS} FROM image WHERE hash = $1 AND vec IS NOT NULL ORDER BY id LIMIT 1"
        );
        Ok(self.query(&sql, &[&hash.as_slice()])?.first().map(record))
    }

    fn for_each(&self, each: &mut dyn FnMut(Record) -> Result<()>) -> Result<()> {
        let mut after = ImageId::MIN;
        loop {
            let rows = self.page(after, "")?;
            let Some(last) = rows.last() else { return Ok(()) };
            after = last.get(0);
            rows.iter().try_for_each(|row| each(record(row)))?;
        }
    }

    fn vectors(&self, ids: &[ImageId]) -> Result<Vec<Option<Vec<f16>>>> {
        let sql =
            "SELECT id, vec::real[], vector_crc FROM image WHERE id = ANY($1) AND vec IS NOT NULL";
        let mut found = std::collections::HashMap::new();
        for row in self.query(sql, &[&ids])? {
            let (id, vector): (ImageId, _) = (row.get(0), halves(row.get(1)));
            if i64::from(vector_crc(&vector)) != row.get::<_, i64>(2) {
                let detail = format!("the vector of image {id} contradicts its checksum");
                return Err(IndexError::damaged(self.database.to_string(), detail));
            }
            found.insert(id, vector);
        }
        Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
    }

    fn top_k(&self, query: &[f32], k: usize, filter: &Filter) -> Result<Vec<Scored>> {
        if query.len() != self.width {
            return Err(IndexError::Width { found: query.len(), expected: self.width });
        }
        let mut passing: Option<Vec<ImageId>> = None;
        if !filter.is_empty() {
            let roots = self.roots()?;
            let mut ids = Vec::new();
            self.for_each(&mut |record| {
                let root = roots.iter().find(|root| root.id == record.image.root);
                if root.is_some_and(|root| filter.passes(&record.image, &root.path)) {
                    ids.push(record.id);
                }
                Ok(())
            })?;
            passing = Some(ids);
        }
        let k = i64::try_from(k).unwrap_or(i64::MAX);
        let order = "ORDER BY distance, id LIMIT $2";
        let select =
            "SELECT id, vec <#> $1::real[]::vector AS distance FROM image WHERE vec IS NOT NULL";
        let rows = match &passing {
            None => self.query(&format!("{select} {order}"), &[&query, &k])?,
            Some(ids) => {
                self.query(&format!("{select} AND id = ANY($3) {order}"), &[&query, &k, ids])?
            }
        };
        // The operator gives the negative product, so that less is nearer.
        let scored = |row: &Row| Scored { id: row.get(0), score: -row.get::<_, f64>(1) as f32 };
        Ok(rows.iter().map(scored).collect())
    }

    fn newest(&self, filter: &Filter, skip: usize, n: usize) -> Result<Vec<Record>> {
        if !filter.is_empty() {
            return by_scan(self, filter, skip, n);
        }
        let sql = format!(
            "SELECT {COLUMNS} FROM image WHERE vec IS NOT NULL ORDER BY \
             coalesce(taken, floor(modified::numeric / 1000000000)) DESC, id DESC OFFSET $1 LIMIT $2"
        );
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        let rows = self.query(&sql, &[&number(skip), &number(n)])?;
        Ok(rows.iter().map(record).collect())
    }

    fn verify(&self) -> Result<Verification> {
        let mut found = Verification::default();
        let mut after = ImageId::MIN;
        loop {
            let rows = self.page(after, ", vec::real[], vector_crc, record_crc")?;
            let Some(last) = rows.last() else { return Ok(found) };
            after = last.get(0);
            for row in &rows {
                let Record { id, image } = record(row);
                let vector = row.get::<_, Option<Vec<f32>>>(13).map(halves);
                let crc = vector.as_ref().map_or(0, |v| vector_crc(v));
                let sound = i64::from(crc) == row.get::<_, i64>(14)
                    && i64::from(record_crc(0, &image, crc)) == row.get::<_, i64>(15)
                    && image.status.is_ok() == vector.is_some();
                if sound {
                    found.sound += 1;
                    continue;
                }
                if found.damaged.len() < SHOWN {
                    let name = albef_data::names::text_of(&image.path);
                    let name = albef_data::names::shown(&name);
                    found.problems.push(format!("image {id} ({name}) contradicts its checksums"));
                }
                found.damaged.push(id);
            }
        }
    }

    fn compact(&self) -> Result<()> {
        self.with(|client| client.batch_execute("VACUUM image").map_err(|e| self.fail(&e)))
    }
}

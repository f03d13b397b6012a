//! `albef index dups`.

use albef::index::{DuplicateOptions, Record, duplicates, open_part};
use anyhow::Result;
use serde_json::{Value, json};

use super::{DupsArguments, file, mb, place, shown};
use crate::ExitStatus;
use crate::output::{raw, say};
use crate::progress::bar;

pub fn run(a: &DupsArguments) -> Result<ExitStatus> {
    let store = open_part(&place(&a.place)?)?;
    let roots = store.roots()?;
    let options = DuplicateOptions { cosine: a.cosine, bits: a.bits };
    let groups = duplicates(&*store, &options, &bar())?;
    if a.paths {
        let end: &[u8] = if a.null { b"\0" } else { b"\n" };
        for record in groups.iter().flat_map(|group| &group.others) {
            raw(&[file(record, &roots).as_os_str().as_encoded_bytes(), end].concat())?;
        }
        return Ok(ExitStatus::Yes);
    }
    let described = |record: &Record| {
        json!({
            "id": record.id,
            "path": shown(&file(record, &roots)),
            "width": record.image.width,
            "height": record.image.height,
            "bytes": record.image.size,
        })
    };
    if a.place.json {
        let groups: Vec<Value> = groups
            .iter()
            .map(|group| {
                let others: Vec<Value> = group.others.iter().map(described).collect();
                json!({"exact": group.exact, "keep": described(&group.keep), "others": others})
            })
            .collect();
        say!("{}", json!({"groups": groups}))?;
        return Ok(ExitStatus::Yes);
    }
    let line = |what: &str, record: &Record| {
        let image = &record.image;
        let name = shown(&file(record, &roots));
        say!("{what}  {} x {}  {name}", image.width, image.height)
    };
    let mut bytes = 0;
    for group in &groups {
        line(if group.exact { "keep (copies)" } else { "keep (alike) " }, &group.keep)?;
        for record in &group.others {
            bytes += record.image.size;
            line("             ", record)?;
        }
    }
    let others: usize = groups.iter().map(|group| group.others.len()).sum();
    let count = |n: usize, one: &str| format!("{n} {one}{}", if n == 1 { "" } else { "s" });
    let (groups, others) = (count(groups.len(), "group"), count(others, "duplicate"));
    eprintln!("{groups}, {others} of {:.1} MB", mb(bytes));
    Ok(ExitStatus::Yes)
}

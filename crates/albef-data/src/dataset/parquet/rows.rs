//! The rows of a Parquet file.

use std::borrow::Cow;
use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parquet::basic::{Compression, ConvertedType, LogicalType, Type as Physical};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::{Map, Value};

use super::super::entry::{Entry, Place};
use super::super::keys;
use crate::error::{DataError, Result};
use crate::image::read_image;
use crate::input::decode_text;
use crate::names;

/// Names of columns of plain bytes that are images.
const IMAGES: [&str; 8] = ["image", "img", "jpg", "jpeg", "png", "webp", "image_bytes", "bytes"];

/// A column that holds images.
struct ImageColumn {
    name: String,
    /// Whether it is a group of `bytes` and `path`, as the library `datasets` writes it.
    group: bool,
}

/// An open file with the columns that are read.
struct Table {
    reader: SerializedFileReader<File>,
    columns: Type,
    image: Option<ImageColumn>,
}

fn is_bytes(column: &Type) -> bool {
    let info = column.get_basic_info();
    let text = matches!(info.logical_type_ref(), Some(LogicalType::String))
        || info.converted_type() == ConvertedType::UTF8;
    column.is_primitive() && column.get_physical_type() == Physical::BYTE_ARRAY && !text
}

fn image_column(fields: &[Arc<Type>]) -> Option<ImageColumn> {
    let has_bytes = |column: &Type| {
        column.is_group() && column.get_fields().iter().any(|f| f.name() == "bytes" && is_bytes(f))
    };
    let group = fields.iter().find(|f| has_bytes(f));
    let plain = || {
        let named = |name: &&str| {
            let found = |f: &&Arc<Type>| f.name().eq_ignore_ascii_case(name) && is_bytes(f);
            fields.iter().find(found)
        };
        IMAGES.iter().find_map(named)
    };
    let of = |column: &Arc<Type>, group| ImageColumn { name: column.name().to_owned(), group };
    group.map(|column| of(column, true)).or_else(|| plain().map(|column| of(column, false)))
}

impl Table {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(DataError::io(path))?;
        let reader = guarded(path, || SerializedFileReader::new(file))?;
        if let Some(codec) = unread_codec(&reader) {
            let detail = format!(
                "it is compressed with {codec}, which is not read; write it with Snappy, Zstandard or no compression"
            );
            return Err(DataError::annotation(path, String::new(), detail));
        }
        let schema = reader.metadata().file_metadata().schema();
        let fields = schema.get_fields();
        let image = image_column(fields);
        // Other bytes, such as features, are no part of a sample; some programs write texts as plain bytes.
        let is_image = |f: &Type| image.as_ref().is_some_and(|image| image.name == f.name());
        let is_text = |f: &Type| !is_bytes(f) || keys::is_read(f.name());
        let wanted = fields.iter().filter(|f| is_image(f) || is_text(f)).cloned().collect();
        let other = fields.iter().find(|f| is_bytes(f) && !is_text(f));
        if let (None, Some(other)) = (&image, other)
            && !fields.iter().any(|f| keys::is_of_image(f.name()))
        {
            let detail = format!(
                "no column names images, and `{}` holds bytes: bytes are images in a column named {}; rename it",
                other.name(),
                IMAGES.map(|name| format!("`{name}`")).join(", ")
            );
            return Err(DataError::annotation(path, String::new(), detail));
        }
        let columns =
            guarded(path, || Type::group_type_builder(schema.name()).with_fields(wanted).build())?;
        Ok(Self { reader, columns, image })
    }

    /// Gives all rows in order, until `take` fails.
    fn each(&self, path: &Path, take: &mut dyn FnMut(usize, Row) -> Result<()>) -> Result<()> {
        let columns = self.columns.clone();
        let mut rows = guarded(path, || self.reader.get_row_iter(Some(columns)))?;
        for number in 0.. {
            let row =
                guarded(path, || rows.next().transpose()).map_err(|e| at_row(path, number, &e))?;
            let Some(row) = row else { break };
            take(number, row)?;
        }
        Ok(())
    }
}

/// The name of a compression that is not read, if a column has one.
fn unread_codec(reader: &SerializedFileReader<File>) -> Option<String> {
    let groups = reader.metadata().row_groups().iter();
    let mut codecs = groups.flat_map(|group| group.columns()).map(|column| column.compression());
    let is_read = |c: &Compression| {
        matches!(c, Compression::UNCOMPRESSED | Compression::SNAPPY | Compression::ZSTD(_))
    };
    let found = codecs.find(|codec| !is_read(codec))?.to_string();
    // `GZIP(GzipLevel(6))`
    Some(found.split('(').next().unwrap_or_default().to_lowercase())
}

/// The reader is other people's code and sees hostile bytes: a panic there is a damaged file.
fn guarded<T>(path: &Path, read: impl FnOnce() -> parquet::errors::Result<T>) -> Result<T> {
    let failed = |detail: String| {
        let detail = format!("damaged Parquet file: {detail}; get it again");
        DataError::annotation(path, String::new(), detail)
    };
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(found) => found.map_err(|e| failed(e.to_string())),
        Err(_) => Err(failed("its reader gave up".into())),
    }
}

fn at_row(path: &Path, number: usize, error: &DataError) -> DataError {
    match error {
        DataError::Annotation { detail, .. } => {
            DataError::annotation(path, Place::Row(number).to_string(), detail.clone())
        }
        other => DataError::annotation(path, Place::Row(number).to_string(), other.to_string()),
    }
}

/// A field as JSON; `None` for bytes and for kinds that no caption, path or id has.
fn value(field: &Field) -> Option<Value> {
    Some(match field {
        Field::Null => Value::Null,
        Field::Bool(v) => (*v).into(),
        Field::Byte(v) => (*v).into(),
        Field::Short(v) => (*v).into(),
        Field::Int(v) => (*v).into(),
        Field::Long(v) => (*v).into(),
        Field::UByte(v) => (*v).into(),
        Field::UShort(v) => (*v).into(),
        Field::UInt(v) => (*v).into(),
        Field::ULong(v) => (*v).into(),
        Field::Float(v) => (*v).into(),
        Field::Double(v) => (*v).into(),
        Field::Str(v) => v.as_str().into(),
        Field::ListInternal(list) => {
            Value::Array(list.elements().iter().filter_map(value).collect())
        }
        Field::Group(row) => Value::Object(object(row, None)),
        _ => return None,
    })
}

fn object(row: &Row, without: Option<&str>) -> Map<String, Value> {
    let columns = row.get_column_iter().filter(|(name, _)| Some(name.as_str()) != without);
    let of = |name: &str, field: &Field| match field {
        Field::Bytes(bytes) if keys::is_read(name) => {
            decode_text(bytes.data()).map(|(text, _)| text.into_owned().into())
        }
        other => value(other),
    };
    columns.filter_map(|(name, field)| Some((name.clone(), of(name, field)?))).collect()
}

/// Whether a file holds images, not their paths.
///
/// # Errors
/// If it is damaged.
pub(super) fn holds_images(path: &Path) -> Result<bool> {
    Ok(Table::open(path)?.image.is_some())
}

/// The rows of a file without images, as entries of a list.
///
/// # Errors
/// If it is damaged, or `take` fails.
pub(in super::super) fn entries(
    path: &Path,
    take: &mut dyn FnMut(Entry<'_>) -> Result<()>,
) -> Result<()> {
    let table = Table::open(path)?;
    let image = table.image.as_ref().map(|image| image.name.as_str());
    table.each(path, &mut |number, row| {
        take(Entry::of(Place::Row(number), Ok(Value::Object(object(&row, image)))))
    })
}

/// Takes the number of a row, the bytes of its image and its other columns.
pub(in super::super) type TakeImage<'a> =
    &'a mut dyn FnMut(usize, Option<&[u8]>, Map<String, Value>) -> Result<()>;

/// A field of a group of an image.
fn member<'a>(group: &'a Row, wanted: &str) -> Option<&'a Field> {
    group.get_column_iter().find(|(name, _)| *name == wanted).map(|(_, field)| field)
}

/// The image of a row whose bytes are not in it: the library `datasets` leaves them where its path is.
fn file_of(table: &Path, group: &Row) -> Option<Vec<u8>> {
    let Some(Field::Str(path)) = member(group, "path") else { return None };
    if path.is_empty() {
        return None;
    }
    let folder = table.parent().unwrap_or(Path::new(""));
    read_image(&folder.join(names::path_of(path))).ok()
}

/// The rows of a file with images: the bytes of each, if there are any in it or in the file of its path, and the other
/// columns.
///
/// # Errors
/// If it is damaged, or `take` fails.
pub(in super::super) fn each_image(path: &Path, take: TakeImage<'_>) -> Result<()> {
    let table = Table::open(path)?;
    let Some(image) = &table.image else { return Ok(()) };
    table.each(path, &mut |number, row| {
        let found = row.get_column_iter().find(|(name, _)| **name == image.name);
        let (field, group) = match found.map(|(_, field)| field) {
            Some(Field::Group(group)) if image.group => (member(group, "bytes"), Some(group)),
            other => (other, None),
        };
        let bytes = match (field, group) {
            (Some(Field::Bytes(bytes)), _) => Some(Cow::Borrowed(bytes.data())),
            (_, Some(group)) => file_of(path, group).map(Cow::Owned),
            (_, None) => None,
        };
        take(number, bytes.as_deref(), object(&row, Some(&image.name)))
    })
}

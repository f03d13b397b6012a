//! Which bytes of a file are its image, and what they mean: items, their properties, and references between them.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use image::metadata::Orientation;

use super::boxes::Bytes;
use super::frame::Colors;
use crate::error::{ImageError, ImageErrorKind as Kind};

/// How the image of a file is stored.
#[derive(Debug)]
pub(in crate::image) struct Layout<'a> {
    pub width: u32,
    pub height: u32,
    /// How it must be turned to be upright.
    pub orientation: Option<Orientation>,
    /// The file has more frames than this image.
    pub animated: bool,
    /// How its colors are stored, if the container says so.
    pub(super) colors: Option<Colors>,
    pub(super) color: Part<'a>,
    pub(super) alpha: Option<Part<'a>>,
    /// Colors are already multiplied by alpha.
    pub(super) premultiplied: bool,
}

/// Frames of equal size, row by row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tiles {
    pub columns: u32,
    pub rows: u32,
    pub width: u32,
    pub height: u32,
}

/// Color or alpha.
#[derive(Debug)]
pub(super) struct Part<'a> {
    pub tiles: Tiles,
    /// The AV1 data of each tile.
    pub data: Vec<Cow<'a, [u8]>>,
    /// Which of the streams in the data is meant.
    pub operating_point: u8,
}

/// Names of the items that hold alpha.
const ALPHA: [&[u8]; 2] =
    [b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1"];
/// Properties that are understood, or that change no pixel here, as none of them does in Pillow.
const KNOWN: [&[u8; 4]; 17] = [
    b"ispe", b"pixi", b"av1C", b"colr", b"auxC", b"irot", b"imir", b"clap", b"a1op", b"lsel",
    b"a1lx", b"pasp", b"clli", b"mdcv", b"cclv", b"amve", b"rloc",
];
/// The least width and height of the tiles of a grid.
const LEAST_TILE: u32 = 64;
/// `lsel` of an image that is in all layers.
const ALL_LAYERS: u16 = 0xffff;

fn corrupt(detail: impl Into<String>) -> ImageError {
    ImageError::new(Kind::Corrupt, detail)
}

fn unsupported(detail: impl Into<String>) -> ImageError {
    ImageError::new(Kind::Unsupported("AVIF"), detail)
}

/// Reads the boxes of a file.
pub(in crate::image) fn layout(bytes: &[u8]) -> Result<Layout<'_>, ImageError> {
    let mut rest = Bytes(bytes);
    let (mut meta, mut movie, mut cut) = (None, None, None);
    loop {
        match rest.next() {
            Ok(Some((kind, content))) => match &kind {
                b"meta" => meta = meta.or(Some(content)),
                b"moov" => movie = movie.or(Some(content)),
                _ => {}
            },
            Ok(None) => break,
            // The data may be there all the same, as far as they are needed.
            Err(e) => {
                cut = Some(e);
                break;
            }
        }
    }
    let sequence = bytes.get(8..12) == Some(b"avis");
    let animated = sequence && movie.is_some_and(|movie| frames(movie).unwrap_or(0) > 1);
    let meta = match (meta, cut) {
        (Some(meta), _) => meta,
        (None, Some(cut)) => return Err(cut),
        (None, None) if movie.is_some() => {
            return Err(unsupported("an image sequence without a still image"));
        }
        (None, None) => return Err(corrupt("an AVIF without a `meta` box")),
    };
    let file = File::read(bytes, meta)?;
    let primary = file.primary;
    let kind = file.item(primary)?.kind;
    if &kind != b"av01" && &kind != b"grid" {
        let name = kind.escape_ascii();
        return Err(unsupported(format!("its image is an item of the kind `{name}`")));
    }
    // What may be taken of the file: items that share their bytes could stand for many times its length.
    let mut budget = bytes.len();
    let (color, [width, height]) = file.part(primary, &[], &mut budget)?;
    let alpha = match file.alpha(primary)? {
        Some(ids) => {
            let (alpha, size) = match ids[..] {
                [id] => file.part(id, &[], &mut budget)?,
                _ => file.part(primary, &ids, &mut budget)?,
            };
            if size != [width, height] {
                let [w, h] = size;
                return Err(corrupt(format!("alpha of {w} x {h} pixels for {width} x {height}")));
            }
            Some((ids, alpha))
        }
        None => None,
    };
    let premultiplied = alpha.as_ref().is_some_and(|(ids, _)| {
        file.references.iter().any(|r| &r.kind == b"prem" && r.from == primary && r.to == *ids)
    });
    Ok(Layout {
        width,
        height,
        orientation: file.orientation(primary)?,
        animated,
        colors: file.colors(primary)?,
        color,
        alpha: alpha.map(|(_, part)| part),
        premultiplied,
    })
}

/// The frames of a sequence's pictures.
fn frames(movie: Bytes<'_>) -> Result<u32, ImageError> {
    let mut most = 0;
    for (kind, track) in movie.boxes()? {
        if &kind != b"trak" {
            continue;
        }
        let mut sizes = Some(track);
        for kind in [b"mdia", b"minf", b"stbl", b"stsz"] {
            sizes = sizes.map(|within| within.find(kind)).transpose()?.flatten();
        }
        if let Some(mut sizes) = sizes {
            sizes.take(8)?;
            most = most.max(sizes.u32()?);
        }
    }
    Ok(most)
}

/// A stored thing: a frame, a grid, metadata.
#[derive(Debug, Default)]
struct Item {
    kind: [u8; 4],
    /// From where its extents are: the file, or the `idat` box.
    method: u8,
    /// Its bytes are in another file.
    elsewhere: bool,
    /// Begin and length.
    extents: Vec<(u64, u64)>,
    /// Places of its properties, from 1, and whether a reader must understand them.
    properties: Vec<(u16, bool)>,
}

#[derive(Debug)]
struct Reference {
    kind: [u8; 4],
    from: u32,
    to: Vec<u32>,
}

#[derive(Debug)]
struct File<'a> {
    bytes: &'a [u8],
    idat: &'a [u8],
    primary: u32,
    items: BTreeMap<u32, Item>,
    references: Vec<Reference>,
    properties: Vec<([u8; 4], Bytes<'a>)>,
}

impl<'a> File<'a> {
    fn read(bytes: &'a [u8], mut meta: Bytes<'a>) -> Result<Self, ImageError> {
        meta.version()?;
        let mut file = Self {
            bytes,
            idat: &[],
            primary: 0,
            items: BTreeMap::new(),
            references: Vec::new(),
            properties: Vec::new(),
        };
        let mut primary = None;
        for (kind, mut content) in meta.boxes()? {
            match &kind {
                b"pitm" => {
                    let (version, _) = content.version()?;
                    primary = Some(content.id(version > 0)?);
                }
                b"idat" => file.idat = content.0,
                b"iinf" => file.read_kinds(content)?,
                b"iloc" => file.read_places(content)?,
                b"iref" => file.read_references(content)?,
                b"iprp" => file.read_properties(content)?,
                _ => {}
            }
        }
        file.primary = primary.ok_or_else(|| corrupt("an AVIF that names no primary item"))?;
        Ok(file)
    }

    fn read_kinds(&mut self, mut content: Bytes<'a>) -> Result<(), ImageError> {
        let (version, _) = content.version()?;
        content.number(if version == 0 { 2 } else { 4 })?;
        for (kind, mut entry) in content.boxes()? {
            let (version, _) = entry.version()?;
            // Older entries have no kind, and no image is one.
            if &kind == b"infe" && version >= 2 {
                let id = entry.id(version > 2)?;
                if entry.u16()? != 0 {
                    // Encrypted.
                    continue;
                }
                self.items.entry(id).or_default().kind = entry.letters()?;
            }
        }
        Ok(())
    }

    fn read_places(&mut self, mut content: Bytes<'a>) -> Result<(), ImageError> {
        let (version, _) = content.version()?;
        let widths = content.u16()?;
        let [offset, length, base, mut index] =
            [12, 8, 4, 0].map(|shift| usize::from(widths >> shift & 15));
        if version == 0 {
            index = 0;
        }
        if [offset, length, base, index].iter().any(|w| *w > 8) {
            return Err(corrupt("a box `iloc` with numbers of more than 8 bytes"));
        }
        for _ in 0..content.id(version > 1)? {
            let id = content.id(version > 1)?;
            let method = if version > 0 { (content.u16()? & 15) as u8 } else { 0 };
            let elsewhere = content.u16()? != 0;
            let from = content.number(base)?;
            let count = content.u16()?;
            let item = self.items.entry(id).or_default();
            (item.method, item.elsewhere) = (method, elsewhere);
            for _ in 0..count {
                content.take(index)?;
                let begin = from.saturating_add(content.number(offset)?);
                item.extents.push((begin, content.number(length)?));
                if offset + length == 0 {
                    // Each would be the whole file, in no byte of this box.
                    break;
                }
            }
        }
        Ok(())
    }

    fn read_references(&mut self, mut content: Bytes<'a>) -> Result<(), ImageError> {
        let (version, _) = content.version()?;
        for (kind, mut list) in content.boxes()? {
            let from = list.id(version > 0)?;
            let count = list.u16()?;
            let to = (0..count).map(|_| list.id(version > 0)).collect::<Result<_, _>>()?;
            self.references.push(Reference { kind, from, to });
        }
        Ok(())
    }

    fn read_properties(&mut self, content: Bytes<'a>) -> Result<(), ImageError> {
        for (kind, mut inner) in content.boxes()? {
            match &kind {
                b"ipco" => self.properties = inner.boxes()?,
                b"ipma" => {
                    let (version, flags) = inner.version()?;
                    for _ in 0..inner.u32()? {
                        let id = inner.id(version > 0)?;
                        for _ in 0..inner.u8()? {
                            // The highest bit tells that the property is essential.
                            let wide = flags & 1 == 1;
                            let value =
                                if wide { inner.u16()? } else { u16::from(inner.u8()?) << 8 };
                            let place = if wide { value & 0x7fff } else { value >> 8 & 0x7f };
                            let essential = value & 0x8000 != 0;
                            self.items.entry(id).or_default().properties.push((place, essential));
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn item(&self, id: u32) -> Result<&Item, ImageError> {
        self.items.get(&id).ok_or_else(|| corrupt(format!("item {id} is missing")))
    }

    /// The properties of an item of a kind.
    fn all(&self, id: u32, kind: &[u8; 4]) -> Vec<Bytes<'a>> {
        let places = self.items.get(&id).map_or(&[][..], |item| &item.properties);
        let property = |place: u16| self.properties.get(usize::from(place).checked_sub(1)?);
        let found = places.iter().filter_map(|(place, _)| property(*place));
        found.filter(|(k, _)| k == kind).map(|(_, content)| *content).collect()
    }

    /// The first property of an item of a kind.
    fn property(&self, id: u32, kind: &[u8; 4]) -> Option<Bytes<'a>> {
        self.all(id, kind).first().copied()
    }

    fn size(&self, id: u32) -> Result<[u32; 2], ImageError> {
        let mut size =
            self.property(id, b"ispe").ok_or_else(|| corrupt(format!("item {id} has no size")))?;
        size.version()?;
        Ok([size.u32()?, size.u32()?])
    }

    /// Refuses an item with a property that changes it in a way that is not known.
    fn check_properties(&self, id: u32) -> Result<(), ImageError> {
        for (place, essential) in &self.item(id)?.properties {
            let found = usize::from(*place).checked_sub(1).and_then(|at| self.properties.get(at));
            if let Some((kind, _)) = found
                && *essential
                && !KNOWN.contains(&kind)
            {
                let name = kind.escape_ascii();
                return Err(unsupported(format!("its image has the property `{name}`")));
            }
        }
        if let Some(mut layer) = self.property(id, b"lsel") {
            let layer = layer.u16()?;
            if layer != ALL_LAYERS {
                return Err(unsupported(format!("its image is layer {layer} of several")));
            }
        }
        Ok(())
    }

    /// The bytes of an item.
    fn data(&self, id: u32, budget: &mut usize) -> Result<Cow<'a, [u8]>, ImageError> {
        let item = self.item(id)?;
        let source = match item.method {
            0 => self.bytes,
            1 => self.idat,
            _ => return Err(unsupported("its data are in another item")),
        };
        if item.elsewhere {
            return Err(unsupported("its data are in another file"));
        }
        let mut pieces = Vec::with_capacity(item.extents.len());
        for (begin, length) in &item.extents {
            let range = usize::try_from(*begin).ok().zip(usize::try_from(*length).ok());
            let piece = range
                .and_then(|(begin, length)| source.get(begin..begin.checked_add(length)?))
                .ok_or_else(|| {
                    let kind = if item.method == 0 { Kind::Truncated } else { Kind::Corrupt };
                    let detail = format!(
                        "its data are {length} bytes from {begin} of {} bytes",
                        source.len()
                    );
                    ImageError::new(kind, detail)
                })?;
            *budget = budget
                .checked_sub(piece.len())
                .ok_or_else(|| corrupt("items that share their bytes"))?;
            pieces.push(piece);
        }
        match pieces[..] {
            [] => Err(corrupt(format!("item {id} has no data"))),
            [one] => Ok(Cow::Borrowed(one)),
            _ => Ok(Cow::Owned(pieces.concat())),
        }
    }

    /// The frames of an item, and its size. `instead` are the tiles of a grid in place of its own.
    fn part(
        &self,
        id: u32,
        instead: &[u32],
        budget: &mut usize,
    ) -> Result<(Part<'a>, [u32; 2]), ImageError> {
        self.check_properties(id)?;
        let kind = self.item(id)?.kind;
        let own;
        let (ids, columns, rows, size) = match &kind {
            b"av01" => (&[id][..], 1, 1, self.size(id)?),
            b"grid" => {
                let (columns, rows, size) = self.grid(id, budget)?;
                own = self.referred(id, b"dimg");
                (if instead.is_empty() { &own[..] } else { instead }, columns, rows, size)
            }
            _ => {
                let name = kind.escape_ascii();
                return Err(unsupported(format!("a part of its image is of the kind `{name}`")));
            }
        };
        let count = u64::from(columns) * u64::from(rows);
        if ids.len() as u64 != count || ids.iter().collect::<BTreeSet<_>>().len() != ids.len() {
            let found = ids.len();
            return Err(corrupt(format!("{found} tiles for {columns} x {rows}")));
        }
        let [width, height] = self.size(ids[0])?;
        let mut data = Vec::with_capacity(ids.len());
        for tile in ids {
            let item = self.item(*tile)?;
            if &item.kind != b"av01" {
                let name = item.kind.escape_ascii();
                return Err(unsupported(format!("a tile of its image is of the kind `{name}`")));
            }
            if self.size(*tile)? != [width, height] {
                return Err(corrupt("tiles of different sizes"));
            }
            self.check_properties(*tile)?;
            data.push(self.data(*tile, budget)?);
        }
        // Each tile has a part in the image, and all of them cover it.
        let fits = |size: u32, tile: u32, count: u32| {
            let (size, tile, count) = (u64::from(size), u64::from(tile), u64::from(count));
            tile > 0 && size <= tile * count && size > tile * (count - 1)
        };
        let small = ids.len() > 1 && width.min(height) < LEAST_TILE;
        if small || !fits(size[0], width, columns) || !fits(size[1], height, rows) {
            let [w, h] = size;
            let tiles = format!("{columns} x {rows} tiles of {width} x {height}");
            return Err(corrupt(format!("{tiles} pixels for {w} x {h}")));
        }
        let operating_point = match self.property(ids[0], b"a1op") {
            Some(mut point) => point.u8()?,
            None => 0,
        };
        let tiles = Tiles { columns, rows, width, height };
        Ok((Part { tiles, data, operating_point }, size))
    }

    /// Columns, rows and size of a grid.
    fn grid(&self, id: u32, budget: &mut usize) -> Result<(u32, u32, [u32; 2]), ImageError> {
        let data = self.data(id, budget)?;
        let mut data = Bytes(&data);
        let version = data.u8()?;
        if version != 0 {
            return Err(unsupported(format!("a grid of version {version}")));
        }
        let width = if data.u8()? & 1 == 1 { 4 } else { 2 };
        let (rows, columns) = (u32::from(data.u8()?) + 1, u32::from(data.u8()?) + 1);
        Ok((columns, rows, [data.number(width)? as u32, data.number(width)? as u32]))
    }

    fn referred(&self, from: u32, kind: &[u8; 4]) -> Vec<u32> {
        let found = self.references.iter().filter(|r| r.from == from && &r.kind == kind);
        found.flat_map(|r| &r.to).copied().collect()
    }

    /// The items with the alpha of an item: one, or one for each tile of a grid.
    fn alpha(&self, primary: u32) -> Result<Option<Vec<u32>>, ImageError> {
        let mut of = BTreeMap::new();
        for reference in self.references.iter().filter(|r| &r.kind == b"auxl") {
            let Some(mut property) = self.property(reference.from, b"auxC") else { continue };
            property.version()?;
            let name = property.0.split(|b| *b == 0).next().unwrap_or_default();
            if ALPHA.contains(&name) {
                for to in &reference.to {
                    of.entry(*to).or_insert(reference.from);
                }
            }
        }
        if let Some(alpha) = of.get(&primary) {
            return Ok(Some(vec![*alpha]));
        }
        let tiles = self.referred(primary, b"dimg");
        let alphas: Vec<u32> = tiles.iter().filter_map(|tile| of.get(tile).copied()).collect();
        Ok((!alphas.is_empty() && alphas.len() == tiles.len()).then_some(alphas))
    }

    /// How the image must be turned: by quarters to the left, then mirrored. As in Pillow, this counts in place of what
    /// Exif says.
    fn orientation(&self, id: u32) -> Result<Option<Orientation>, ImageError> {
        let value = |kind| match self.property(id, kind) {
            Some(mut property) => property.u8().map(Some),
            None => Ok(None),
        };
        let quarters = value(b"irot")?.unwrap_or(0) & 3;
        let exif = match (quarters, value(b"imir")?.map(|axis| axis & 1)) {
            (0, None) => return Ok(None),
            (1, None) => 8,
            (2, None) => 3,
            (_, None) => 6,
            (0, Some(0)) | (2, Some(1)) => 4,
            (0, Some(_)) | (2, Some(_)) => 2,
            (1, Some(0)) | (3, Some(1)) => 5,
            (_, Some(_)) => 7,
        };
        Ok(Orientation::from_exif(exif))
    }

    /// What the container says of the colors; what an ICC profile says is ignored.
    fn colors(&self, id: u32) -> Result<Option<Colors>, ImageError> {
        // The tiles of a grid may say it in its place.
        let tile = self.referred(id, b"dimg").first().copied();
        for mut property in
            [Some(id), tile].into_iter().flatten().flat_map(|i| self.all(i, b"colr"))
        {
            if property.letters()? == *b"nclx" {
                // Primaries and transfer, which are ignored as profiles are.
                property.take(4)?;
                let (matrix, range) = (property.u16()?, property.u8()?);
                return Ok(Some(Colors { matrix, full: range & 0x80 != 0 }));
            }
        }
        Ok(None)
    }
}

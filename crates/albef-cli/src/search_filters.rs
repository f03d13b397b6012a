//! The options of `albef search` that need an index: what to look for besides a text, where, and what is printed.

use std::path::PathBuf;

use albef::index::{Filter, PathPattern, days_since_1970};

use crate::arguments::at_least_one;
use crate::index_place::IndexPlace;

/// Seconds of a day.
const DAY: i64 = 86_400;

#[derive(clap::Args)]
pub struct IndexOptions {
    /// Search without an index: encode all images now and keep nothing.
    #[arg(long, conflicts_with_all = ["index", "store", "like", "plus", "minus", "path", "after", "before", "larger_than", "camera", "page", "paths_only"])]
    pub no_index: bool,
    #[command(flatten)]
    pub place: IndexPlace,
    /// Find images like this one; all other arguments are then folders. May be given several times.
    #[arg(long, value_name = "IMAGE")]
    pub like: Vec<PathBuf>,
    /// Also look for this; a number after a colon is its weight (`"snow:0.5"`). May be given several times.
    #[arg(long, value_name = "TEXT[:WEIGHT]", value_parser = term)]
    pub plus: Vec<(String, f32)>,
    /// Look for images that do not show this, weighted as --plus. May be given several times.
    #[arg(long, value_name = "TEXT[:WEIGHT]", value_parser = term)]
    pub minus: Vec<(String, f32)>,
    /// Only images whose path matches: `*.png`, `2024/**`. Without `/` it is a pattern of names. May be given
    /// several times.
    #[arg(long, value_name = "GLOB", value_parser = pattern)]
    pub path: Vec<PathPattern>,
    /// Only images of this day or later: `2024-05-17`, `2024-05` or `2024`; the date is that of the Exif, or else of
    /// the file.
    #[arg(long, value_name = "DATE", value_parser = first_second)]
    pub after: Option<i64>,
    /// Only images before this day.
    #[arg(long, value_name = "DATE", value_parser = first_second)]
    pub before: Option<i64>,
    /// Only images of at least this many pixels.
    #[arg(long, value_name = "WIDTHxHEIGHT", value_parser = size)]
    pub larger_than: Option<(u32, u32)>,
    /// Only images of cameras whose name contains this.
    #[arg(long, value_name = "NAME")]
    pub camera: Option<String>,
    /// The page of results, --top-k images each.
    #[arg(long, value_parser = at_least_one)]
    pub page: Option<usize>,
    /// Print only paths, one a line, for other programs.
    #[arg(long = "paths", conflicts_with = "json")]
    pub paths_only: bool,
    /// With --paths: end each path with a NUL byte instead of a line feed, as `xargs -0` reads it.
    #[arg(short = '0', long, requires = "paths_only")]
    pub null: bool,
}

impl IndexOptions {
    /// The options given that only an index can serve, by their names.
    pub fn given(&self) -> Vec<&'static str> {
        [
            ("--index", self.place.index.is_some()),
            ("--store", self.place.store.is_some()),
            ("--like", !self.like.is_empty()),
            ("--plus", !self.plus.is_empty()),
            ("--minus", !self.minus.is_empty()),
            ("--path", !self.path.is_empty()),
            ("--after", self.after.is_some()),
            ("--before", self.before.is_some()),
            ("--larger-than", self.larger_than.is_some()),
            ("--camera", self.camera.is_some()),
            ("--page", self.page.is_some()),
            ("--paths", self.paths_only),
        ]
        .into_iter()
        .filter_map(|(name, given)| given.then_some(name))
        .collect()
    }

    /// Which images are searched. `folders`: absolute.
    pub fn filter(&self, folders: Vec<PathBuf>) -> Filter {
        Filter {
            paths: self.path.clone(),
            folders,
            from: self.after,
            before: self.before,
            at_least: self.larger_than,
            camera: self.camera.clone(),
        }
    }

    /// Texts with their weights, those to be taken away below zero.
    pub fn terms(&self) -> Vec<(String, f32)> {
        let minus = self.minus.iter().map(|(text, weight)| (text.clone(), -weight));
        self.plus.iter().cloned().chain(minus).collect()
    }
}

/// `TEXT` or `TEXT:WEIGHT`.
fn term(text: &str) -> Result<(String, f32), String> {
    let weighted = text.rsplit_once(':').and_then(|(text, weight)| {
        let weight = weight.trim().parse::<f32>().ok()?;
        Some((text, weight))
    });
    let (text, weight) = weighted.unwrap_or((text, 1.0));
    if text.trim().is_empty() {
        return Err("it has no words".into());
    }
    if !weight.is_finite() || weight <= 0.0 {
        return Err("the weight must be above 0".into());
    }
    Ok((text.to_owned(), weight))
}

fn pattern(text: &str) -> Result<PathPattern, String> {
    PathPattern::new(text).map_err(|e| e.to_string())
}

/// The first second of a day, a month or a year.
fn first_second(text: &str) -> Result<i64, String> {
    let mut numbers = text.split('-').map(str::parse::<i64>);
    let mut next = |default: Option<i64>| match numbers.next() {
        Some(number) => number.ok(),
        None => default,
    };
    let parts = (next(None), next(Some(1)), next(Some(1)));
    let more = numbers.next().is_some();
    match parts {
        (Some(year), Some(month), Some(day)) if (0..=9999).contains(&year) && !more => {
            let days = days_since_1970(year, month, day);
            days.map(|days| days * DAY).ok_or_else(|| format!("there is no day {text}"))
        }
        _ => Err("write a date as 2024-05-17, 2024-05 or 2024".into()),
    }
}

/// `WIDTHxHEIGHT`.
fn size(text: &str) -> Result<(u32, u32), String> {
    let sides = text.split_once(['x', 'X', '×']);
    sides
        .and_then(|(width, height)| Some((width.trim().parse().ok()?, height.trim().parse().ok()?)))
        .ok_or_else(|| "write it as 1920x1080".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_weights_and_sizes_are_read() {
        assert_eq!(first_second("1970-01-02"), Ok(DAY));
        assert_eq!((first_second("1971"), first_second("1970-02")), (Ok(365 * DAY), Ok(31 * DAY)));
        for wrong in ["", "May", "2024-05-17-1", "2024-13", "2024-02-30", "-5", "2024/05"] {
            assert!(first_second(wrong).is_err(), "{wrong}");
        }
        assert_eq!(term("a dog:0.5"), Ok(("a dog".into(), 0.5)));
        assert_eq!(term("time 12:xx"), Ok(("time 12:xx".into(), 1.0)));
        for wrong in ["", " :2", "a dog:0", "a dog:-1", "a dog:inf"] {
            assert!(term(wrong).is_err(), "{wrong}");
        }
        assert_eq!(size("1920x1080"), Ok((1920, 1080)));
        assert!(size("big").is_err() && size("5x").is_err());
    }
}

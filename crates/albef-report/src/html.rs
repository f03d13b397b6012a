//! One self-contained page: no script, nothing fetched.

use std::fmt::Write;

/// A table.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// What it shows.
    pub caption: String,
    /// Column heads.
    pub head: Vec<String>,
    /// Rows of as many cells.
    pub rows: Vec<Vec<String>>,
}

/// One image that a search found.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchResult {
    /// The image as a PNG file.
    pub png: Vec<u8>,
    /// Its score.
    pub score: f64,
    /// Whether it is right.
    pub correct: bool,
    /// What it shows.
    pub caption: String,
}

/// The right image of a search that did not show it.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// The image as a PNG file.
    pub png: Vec<u8>,
    /// Where it came, from 1; `None` if it was no candidate.
    pub place: Option<usize>,
    /// Candidates.
    pub of: usize,
    /// What it shows.
    pub caption: String,
}

/// A search and what it found, best first.
#[derive(Clone, Debug, PartialEq)]
pub struct SearchExample {
    /// The text.
    pub query: String,
    /// The images.
    pub results: Vec<SearchResult>,
    /// The right image, if it is not among them.
    pub wanted: Option<Wanted>,
}

/// The page.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Heading.
    pub title: String,
    /// One sentence below it.
    pub subtitle: String,
    /// Names and values.
    pub facts: Vec<(String, String)>,
    /// Curves as SVG.
    pub curves: String,
    /// Tables.
    pub tables: Vec<Table>,
    /// Searches.
    pub searches: Vec<SearchExample>,
    /// Last lines, each a paragraph.
    pub notes: Vec<String>,
}

/// Text for HTML.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// A PNG file inside an address.
#[must_use]
pub fn data_uri(png: &[u8]) -> String {
    format!("data:image/png;base64,{}", base64(png))
}

/// Bytes in base64, padded.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let bits = part.iter().fold(0_u32, |v, b| v << 8 | u32::from(*b)) << (8 * (3 - part.len()));
        for i in 0..4 {
            if i <= part.len() {
                out.push(char::from(DIGITS[(bits >> (18 - 6 * i)) as usize & 63]));
            } else {
                out.push('=');
            }
        }
    }
    out
}

const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5c6370; --line: #d9dde3; --card: #ffffff;
  --page: #f6f7f9; --good: #00704a; --bad: #b3361b }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3abb8; --line: #3a3f47;
  --card: #23262b; --page: #17191c; --good: #4cc38a; --bad: #ff8a6b } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 62rem; padding: 2rem 1.25rem 4rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
h1 { margin: 0; font-size: 1.9rem } h2 { margin: 2.2rem 0 .7rem; font-size: 1.2rem }
.sub { color: var(--soft); margin: .3rem 0 1.4rem }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(13rem, 1fr)); gap: .7rem; margin: 0 }
dl div, .table, .search, .curves { background: var(--card); border: 1px solid var(--line);
  border-radius: .6rem } dl div { padding: .6rem .8rem }
dt { color: var(--soft); font-size: .85rem } dd { margin: 0; font-weight: 600 }
.curves { display: flex; flex-wrap: wrap; padding: .5rem }
.curves svg { flex: 1 1 16rem; min-width: 0; max-width: 100%; height: auto }
.caption { color: var(--soft); margin: 1rem 0 .4rem } .table { overflow-x: auto; margin-bottom: 1rem }
table { border-collapse: separate; border-spacing: 0; width: 100%; font-size: .92rem }
th, td { padding: .45rem .6rem; text-align: right; border-top: 1px solid var(--line) }
td.number { white-space: nowrap }
tr:first-child th { border-top: 0 } th:first-child, td:first-child { text-align: left }
.search { padding: .8rem; margin-bottom: .9rem } .search p { margin: 0 0 .5rem; font-weight: 600 }
.hits { display: flex; flex-wrap: wrap; gap: .7rem } figure { margin: 0; width: 8.2rem }
figure img { width: 100%; border-radius: .35rem; border: 3px solid var(--line); image-rendering: auto }
figure.right img { border-color: var(--good) } figure.wrong img { border-style: dashed; border-color: var(--bad) }
figcaption { font-size: .78rem; line-height: 1.3; color: var(--soft) }
figure.wanted { margin-left: auto } figure.wanted img { border-color: var(--soft) }
figcaption b { color: var(--ink) } .right b { color: var(--good) } .wrong b { color: var(--bad) }
";

impl Report {
    /// The page as a file.
    #[must_use]
    pub fn to_html(&self) -> String {
        let mut out = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <title>{0}</title><style>{STYLE}</style></head><body>\n<h1>{0}</h1>\n\
             <p class=\"sub\">{1}</p>\n",
            escape(&self.title),
            escape(&self.subtitle)
        );
        if !self.facts.is_empty() {
            out.push_str("<dl>");
            for (name, value) in &self.facts {
                let _ =
                    write!(out, "<div><dt>{}</dt><dd>{}</dd></div>", escape(name), escape(value));
            }
            out.push_str("</dl>\n");
        }
        if !self.searches.is_empty() {
            out.push_str("<h2>Searches</h2>\n");
        }
        for search in &self.searches {
            let query = escape(&search.query);
            let _ = write!(out, "<div class=\"search\"><p>“{query}”</p><div class=\"hits\">");
            for hit in &search.results {
                let (class, mark) =
                    if hit.correct { ("right", "✓ right") } else { ("wrong", "✗ wrong") };
                let caption = escape(&hit.caption);
                let _ = write!(
                    out,
                    "<figure class=\"{class}\"><img alt=\"{caption}\" src=\"{}\"><figcaption>\
                     <b>{mark}</b> {:.2}<br>{caption}</figcaption></figure>",
                    data_uri(&hit.png),
                    hit.score
                );
            }
            if let Some(wanted) = &search.wanted {
                let caption = escape(&wanted.caption);
                let place = match wanted.place {
                    Some(place) => format!("came {place}. of {}", wanted.of),
                    None => format!("not among {} candidates", wanted.of),
                };
                let _ = write!(
                    out,
                    "<figure class=\"wanted\"><img alt=\"{caption}\" src=\"{}\"><figcaption>\
                     <b>looked for</b> {place}<br>{caption}</figcaption></figure>",
                    data_uri(&wanted.png)
                );
            }
            out.push_str("</div></div>\n");
        }
        if !self.curves.is_empty() {
            let _ = writeln!(out, "<h2>Training</h2><div class=\"curves\">{}</div>", self.curves);
        }
        if !self.tables.is_empty() {
            out.push_str("<h2>Retrieval</h2>\n");
        }
        for table in &self.tables {
            // Outside of the table, which scrolls on a narrow page.
            let caption = escape(&table.caption);
            let _ = write!(
                out,
                "<p class=\"caption\">{caption}</p><div class=\"table\" tabindex=\"0\" role=\"region\" \
                 aria-label=\"{caption}\"><table><tr>"
            );
            table.head.iter().for_each(|h| {
                let _ = write!(out, "<th scope=\"col\">{}</th>", escape(h));
            });
            out.push_str("</tr>");
            for row in &table.rows {
                out.push_str("<tr>");
                row.iter().for_each(|c| {
                    let number = c.starts_with(|c: char| c.is_ascii_digit());
                    let class = if number { " class=\"number\"" } else { "" };
                    let _ = write!(out, "<td{class}>{}</td>", escape(c));
                });
                out.push_str("</tr>");
            }
            out.push_str("</table></div>\n");
        }
        for note in &self.notes {
            let _ = write!(out, "<p class=\"sub\">{}</p>", escape(note));
        }
        out.push_str("</body></html>\n");
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_text_stays_text() {
        let hostile = "<script>alert('x')</script>\" onload=\"y";
        let result = SearchResult {
            png: vec![1, 2, 3, 4],
            score: 0.5,
            correct: false,
            caption: hostile.into(),
        };
        let page = Report {
            title: hostile.into(),
            searches: vec![SearchExample {
                query: hostile.into(),
                results: vec![result],
                wanted: None,
            }],
            ..Report::default()
        }
        .to_html();
        assert!(!page.contains("<script") && !page.contains("\" onload"));
    }

    #[test]
    fn base64_has_its_padding() {
        assert!(data_uri(b"M").ends_with(",TQ=="));
        assert!(data_uri(b"Ma").ends_with(",TWE="));
        assert!(data_uri(b"Man").ends_with(",TWFu"));
    }
}

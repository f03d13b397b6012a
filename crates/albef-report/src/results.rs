//! The page of a search: images with their scores and heat maps, in one file that loads nothing and runs nothing.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::html::{base64, escape};

/// What a search found, best first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResultPage {
    /// What was looked for.
    pub query: String,
    /// What results are ordered by.
    pub order: String,
    /// Images that were searched.
    pub gallery: u64,
    /// Why nothing matches, if nothing does.
    pub nothing_matches: Option<String>,
    /// The images.
    pub results: Vec<ResultImage>,
}

/// An image that was found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ResultImage {
    /// Its name.
    pub name: String,
    /// Where it is.
    pub path: String,
    /// Probability of a match, if it was re-ranked.
    pub probability: Option<f64>,
    /// Cosine of the features.
    pub cosine: f32,
    /// How many copies of it there are.
    pub copies: usize,
    /// A small JPEG of it.
    pub thumbnail: Vec<u8>,
    /// Words with their heat maps over the image, as JPEG of the size of the thumbnail.
    pub maps: Vec<(String, Vec<u8>)>,
}

/// Heat maps are laid over their image while a word is pointed at or has the focus: no script is needed.
const STYLE: &str = "
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5c6370; --line: #d9dde3; --card: #ffffff;
  --page: #f6f7f9; --good: #00704a; --chip: #eef1f5 }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --soft: #a3abb8; --line: #3a3f47;
  --card: #23262b; --page: #17191c; --good: #4cc38a; --chip: #31363d } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 80rem; padding: 2rem 1.25rem 4rem; background: var(--page);
  color: var(--ink); font: 16px/1.5 system-ui, sans-serif }
h1 { margin: 0; font-size: 1.7rem; overflow-wrap: anywhere } .sub { color: var(--soft); margin: .3rem 0 1.2rem }
.none { border-left: .3rem solid var(--line); background: var(--card); padding: .6rem .9rem; margin: 0 0 1.2rem }
ol { list-style: none; display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1rem;
  margin: 0; padding: 0 }
li { position: relative; background: var(--card); border: 1px solid var(--line); border-radius: .6rem; overflow: hidden }
li > img, .word img { display: block; width: 100%; height: 14rem; object-fit: contain; background: var(--chip) }
.about { padding: .6rem .8rem .8rem } .about p { margin: 0 }
.name { overflow-wrap: anywhere; font-weight: 600; font-size: .92rem }
.scores { color: var(--soft); font-size: .85rem } .scores b { color: var(--good) } .scores b.low { color: inherit }
.words { display: flex; flex-wrap: wrap; gap: .3rem; margin-top: .5rem }
.word { background: var(--chip); border-radius: .9rem; padding: .05rem .6rem; font-size: .85rem; cursor: default }
.word img { display: none; position: absolute; top: 0; left: 0; pointer-events: none }
.word:hover, .word:focus { outline: 2px solid var(--good) } .word:hover img, .word:focus img { display: block }
";

impl ResultPage {
    /// The page as a file.
    #[must_use]
    pub fn to_html(&self) -> String {
        let style = base64(&Sha256::digest(STYLE));
        let mut out = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; \
             style-src 'sha256-{style}'; base-uri 'none'; form-action 'none'\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <title>{0}</title><style>{STYLE}</style></head><body>\n<header><h1>{0}</h1>\n\
             <p class=\"sub\">the best {1} of {2} images, by {3}</p>\n",
            escape(&self.query),
            self.results.len(),
            self.gallery,
            escape(&self.order)
        );
        if let Some(reason) = &self.nothing_matches {
            put(
                &mut out,
                format_args!("<p class=\"none\" role=\"status\">{}</p>\n", escape(reason)),
            );
        }
        out += "</header>\n<main><ol>\n";
        self.results.iter().for_each(|result| result.put(&mut out));
        out += "</ol></main>\n</body></html>\n";
        out
    }
}

fn put(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a text cannot fail.
    let _ = out.write_fmt(text);
}

fn jpeg(bytes: &[u8]) -> String {
    format!("data:image/jpeg;base64,{}", base64(bytes))
}

impl ResultImage {
    fn put(&self, out: &mut String) {
        let name = escape(&self.name);
        put(
            out,
            format_args!(
                "<li><img src=\"{}\" alt=\"{name}\">\n<div class=\"about\"><p class=\"name\" title=\"{}\">{name}</p>\n\
                 <p class=\"scores\">",
                jpeg(&self.thumbnail),
                escape(&self.path)
            ),
        );
        if let Some(p) = self.probability {
            let class = if p < 0.5 { " class=\"low\"" } else { "" };
            put(out, format_args!("match <b{class}>{p:.3}</b>, "));
        }
        put(out, format_args!("cosine {:.3}", self.cosine));
        match self.copies {
            0 => {}
            1 => *out += ", 1 copy",
            n => put(out, format_args!(", {n} copies")),
        }
        *out += "</p>\n";
        if !self.maps.is_empty() {
            *out += "<p class=\"words\">";
            for (word, map) in &self.maps {
                let word = escape(word);
                put(
                    out,
                    format_args!(
                        "<span class=\"word\" tabindex=\"0\">{word}<img src=\"{}\" alt=\"where {word} is\"></span>",
                        jpeg(map)
                    ),
                );
            }
            *out += "</p>";
        }
        *out += "</div></li>\n";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_what_is_shown_is_markup() {
        let hostile = "<script>alert('x')</script>\"&";
        let page = ResultPage {
            query: hostile.into(),
            order: hostile.into(),
            gallery: 7,
            nothing_matches: Some(hostile.into()),
            results: vec![ResultImage {
                name: hostile.into(),
                path: hostile.into(),
                probability: Some(0.25),
                cosine: 0.5,
                copies: 2,
                thumbnail: vec![0xff, 0xd8, 1],
                maps: vec![(hostile.into(), vec![0xff, 0xd8, 2])],
            }],
        };
        let html = page.to_html();
        assert!(!html.contains("<script") && !html.contains("alert('x')"), "{html}");
        assert_eq!(html.matches("&lt;script&gt;").count(), 9, "{html}");
        for part in [
            "match <b class=\"low\">0.250</b>, cosine 0.500, 2 copies",
            "data:image/jpeg;base64,/9gB",
            "best 1 of 7",
        ] {
            assert!(html.contains(part), "{part}: {html}");
        }
        // The policy names the style that is there.
        let style = html.split("<style>").nth(1).unwrap().split("</style>").next().unwrap();
        assert!(html.contains(&format!("'sha256-{}'", base64(&Sha256::digest(style)))));
        assert!(!html.contains("http://") && !html.contains("https://"));
    }
}

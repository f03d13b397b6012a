//! What enters the corpus, and on which side of the split.

use std::collections::BTreeSet;

/// Licences under which a model may be trained and passed on with attribution: no share-alike, no
/// non-commercial terms, no GPL.
const LICENCES: [&str; 9] = [
    "MIT",
    "Apache-2.0",
    "ISC",
    "CC0-1.0",
    "CC-BY-3.0",
    "CC-BY-4.0",
    "OFL-1.1",
    "BSD-3-Clause",
    "Unlicense",
];

/// Sets that are never trained on and never used to choose anything, with all sets whose names start with
/// one of these and a hyphen: they are different cuts of the same drawings.
const TEST: [&str; 9] = [
    "carbon",
    "game-icons",
    "healthicons",
    "icon-park",
    "flat-color-icons",
    "meteocons",
    "emojione",
    "streamline-emojis",
    "fxemoji",
];

/// Whole sets that choices are made by: outlines, solids and strokes, and one in colors.
const VALIDATION: [&str; 4] = ["clarity", "grommet-icons", "iconoir", "streamline-kameleon-color"];

/// Sets without English names of things: logos and brands that the catalogue files elsewhere, names without
/// spaces, another language.
const UNNAMED: [&str; 12] = [
    "academicons",
    "catppuccin",
    "devicon",
    "devicon-plain",
    "file-icons",
    "ls",
    "material-icon-theme",
    "nrk",
    "skill-icons",
    "unjs",
    "vscode-icons",
    "whh",
];

/// Last words of emoji that come in several skin tones.
const TONES: [&str; 3] = ["medium", "dark", "light"];

const LOGOS: &str = "Logos";
const FLAGS: [&str; 4] = ["cif", "circle-flags", "flag", "flagpack"];

/// The side of the split on which a set is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Trained on.
    Train,
    /// Looked at while choosing.
    Validation,
    /// Measured once.
    Test,
}

/// What is known of a set before it is read.
pub struct Candidate<'a> {
    /// Its name, such as `tabler`.
    pub prefix: &'a str,
    /// The SPDX name of its licence.
    pub licence: &'a str,
    /// Its category in the catalogue.
    pub category: &'a str,
    /// Whether logos and flags are wanted.
    pub brands: bool,
}

/// The side of a set, or why it is left out.
pub fn side(set: &Candidate<'_>) -> Result<Side, &'static str> {
    let is = |name: &str| {
        set.prefix == name
            || set.prefix.strip_prefix(name).is_some_and(|rest| rest.starts_with('-'))
    };
    if !LICENCES.contains(&set.licence) {
        return Err("licence");
    }
    if TEST.iter().any(|name| is(name)) {
        return Ok(Side::Test);
    }
    if UNNAMED.contains(&set.prefix) {
        return Err("names");
    }
    let brands = set.category == LOGOS || set.prefix.ends_with("-brands") || set.prefix == "bxl";
    if !set.brands && (brands || FLAGS.contains(&set.prefix)) {
        return Err("logos or flags");
    }
    Ok(if VALIDATION.contains(&set.prefix) { Side::Validation } else { Side::Train })
}

/// Whether an icon of a set in use is left out for its name or category: logos, letters, flags, skin tones, code points.
pub fn unwanted(words: &[String], category: Option<&str>, brands: bool) -> bool {
    let has = |name: &str| words.iter().any(|w| w == name);
    let all_short =
        words.iter().all(|w| w.chars().count() == 1 || w.chars().all(|c| c.is_ascii_digit()));
    let code_point = words.iter().any(|w| {
        w.len() >= 5
            && w.starts_with('u')
            && w[1..].chars().all(|c| c.is_ascii_hexdigit())
            && w[1..].chars().any(|c| c.is_ascii_digit())
    });
    let letter = words.len() == 2
        && ["letter", "alphabet", "alpha", "number", "numeric", "circle", "square", "roman"]
            .contains(&&*words[0])
        && words[1].chars().count() == 1;
    // "artist medium dark" is the drawing "artist" in another skin tone.
    let tone = has("skin") && has("tone")
        || words.len() > 1 && TONES.iter().any(|tone| words.last().is_some_and(|w| w == tone));
    let category = category.unwrap_or_default().to_lowercase();
    let branded = ["brand", "logo", "flags"].iter().any(|name| category.contains(name))
        || has("brand")
        || has("logo")
        || words.first().is_some_and(|w| w == "flag") && words.len() > 1;
    all_short || code_point || letter || tone || (branded && !brands)
}

/// Code points of emoji that the drawings of `data/drawings` hold out: their pictures in other sets stay out
/// of training as well.
pub fn held_out(text: &str) -> BTreeSet<String> {
    text.lines().map(code_point_key).filter(|l| !l.is_empty()).collect()
}

/// A sequence of code points without variation selectors, as the drawings write it.
pub fn code_point_key(text: &str) -> String {
    let parts = text.trim().split('-').map(str::to_lowercase);
    parts.filter(|p| p != "fe0f").collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(prefix: &str, licence: &str, category: &str) -> Result<Side, &'static str> {
        side(&Candidate { prefix, licence, category, brands: false })
    }

    #[test]
    fn sets_are_on_the_side_that_is_promised() {
        assert_eq!(of("tabler", "MIT", ""), Ok(Side::Train));
        assert_eq!(of("iconoir", "MIT", ""), Ok(Side::Validation));
        assert_eq!(of("icon-park-solid", "Apache-2.0", ""), Ok(Side::Test));
        assert_eq!(of("emojione-monotone", "CC-BY-4.0", "Emoji"), Ok(Side::Test));
        assert_eq!(of("openmoji", "CC-BY-SA-4.0", "Emoji"), Err("licence"));
        assert_eq!(of("simple-icons", "CC0-1.0", "Logos"), Err("logos or flags"));
    }

    #[test]
    fn letters_brands_and_code_points_are_left_out() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        for name in [
            "a",
            "brand github",
            "letter b",
            "u1faab small",
            "flag fr",
            "hand medium skin tone",
            "artist medium dark",
            "1 2",
        ] {
            assert!(unwanted(&words(name), None, false), "{name}");
        }
        for name in ["flag", "cloud download", "umbrella", "arrow up circle", "face", "facade"] {
            assert!(!unwanted(&words(name), Some("Files"), false), "{name}");
        }
        assert!(unwanted(&words("language xaml"), Some("Brand / Logo"), false));
        assert!(!unwanted(&words("language xaml"), Some("Brand / Logo"), true));
    }

    #[test]
    fn code_points_are_written_in_one_way() {
        assert_eq!(code_point_key("1F3F4-FE0F"), "1f3f4");
        assert_eq!(held_out("1f600\n\n2764-fe0f\n").len(), 2);
    }
}

//! From the names of icons to captions: `user-plus-20-filled` is "user plus", and "user plus filled" where
//! the style is to be heard as well.

/// Words that may tell the style of a drawing and not what it shows, where a set ends many names with them.
const STYLES: [&str; 38] = [
    "alerted",
    "alt",
    "badged",
    "baseline",
    "bold",
    "broken",
    "color",
    "colored",
    "duo",
    "duotone",
    "f",
    "fill",
    "filled",
    "flat",
    "l",
    "light",
    "line",
    "linear",
    "lined",
    "ltr",
    "mini",
    "monochrome",
    "negative",
    "o",
    "outline",
    "outlined",
    "regular",
    "remix",
    "round",
    "rounded",
    "rtl",
    "semibold",
    "sharp",
    "small",
    "solid",
    "stroke",
    "thin",
    "twotone",
];

/// The words of [`STYLES`] that are styles in a set: at least one name in forty ends with them. Elsewhere they are
/// words like others, as in "chart line".
pub fn styles<'a>(names: impl Iterator<Item = &'a str> + Clone) -> Vec<String> {
    let all = names.clone().count();
    let ends = |style: &str| {
        let ending = |name: &str| {
            let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-');
            name.strip_suffix(style).is_some_and(|rest| rest.ends_with('-'))
        };
        names.clone().filter(|n| ending(n)).count()
    };
    STYLES.iter().filter(|s| ends(s) * 40 >= all.max(1)).map(|s| (*s).to_owned()).collect()
}

/// Sides in pixels that names end with.
pub const SIDES: [u32; 17] = [10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 28, 30, 32, 36, 42, 48];

/// The parts of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Name {
    /// What is drawn.
    pub stem: Vec<String>,
    /// How it is drawn.
    pub style: Vec<String>,
    /// The size it is drawn for.
    pub side: Option<u32>,
    /// Which of several drawings of the same thing it is.
    pub count: Option<u32>,
}

/// What tells styles in the names of a set.
#[derive(Clone, Debug, Default)]
pub struct Affixes {
    /// Before a name, as the set declares them.
    pub prefixes: Vec<String>,
    /// Behind a name, as the set declares them.
    pub suffixes: Vec<String>,
    /// Behind a name, by [`styles`].
    pub styles: Vec<String>,
}

/// Reads a name.
pub fn read(name: &str, affixes: &Affixes) -> Name {
    let mut found = Name::default();
    let mut rest = name;
    let longest = |all: &[String], fits: &dyn Fn(&str) -> bool| {
        all.iter().filter(|s| !s.is_empty() && fits(s)).max_by_key(|s| s.len()).cloned()
    };
    let after =
        |whole: &str, prefix: &str| whole.strip_prefix(prefix).is_some_and(|r| r.starts_with('-'));
    let before =
        |whole: &str, suffix: &str| whole.strip_suffix(suffix).is_some_and(|r| r.ends_with('-'));
    let mut declared = Vec::new();
    if let Some(prefix) = longest(&affixes.prefixes, &|p| after(rest, p)) {
        rest = &rest[prefix.len() + 1..];
        declared.extend(prefix.split('-').map(str::to_owned));
    }
    if let Some(suffix) = longest(&affixes.suffixes, &|s| before(rest, s)) {
        rest = &rest[..rest.len() - suffix.len() - 1];
        declared.extend(suffix.split('-').map(str::to_owned));
    }
    for word in declared {
        match word.trim_end_matches("px").parse() {
            Ok(side) if SIDES.contains(&side) => found.side = Some(side),
            _ => found.style.push(word),
        }
    }
    found.stem = rest.split(['-', '_']).filter(|w| !w.is_empty()).flat_map(unglued).collect();
    while found.stem.len() > 1 {
        let last = &found.stem[found.stem.len() - 1];
        if affixes.styles.contains(last) {
            found.style.insert(0, last.clone());
        } else if let Ok(number) = last.trim_end_matches("px").parse::<u32>() {
            match found.side {
                None if SIDES.contains(&number) && !last.starts_with('0') => {
                    found.side = Some(number)
                }
                _ if found.count.is_none() => found.count = Some(number),
                _ => break,
            }
        } else {
            break;
        }
        found.stem.pop();
    }
    found
}

/// `ruler4` is the fourth ruler; `mp3`, `3d` and `h1` are words.
fn unglued(word: &str) -> Vec<String> {
    let letters = word.trim_end_matches(|c: char| c.is_ascii_digit());
    let glued = letters.len() >= 4
        && letters.len() < word.len()
        && letters.chars().all(|c| c.is_ascii_alphabetic());
    if glued {
        vec![letters.to_owned(), word[letters.len()..].to_owned()]
    } else {
        vec![word.to_owned()]
    }
}

impl Name {
    /// What is drawn, in words.
    pub fn words(&self) -> String {
        self.stem.join(" ").to_lowercase()
    }
}

/// "a" or "an", by the first letter; "user" and the like are spoken with a consonant.
fn article(words: &str) -> &'static str {
    let consonant =
        ["use", "uni", "usb", "euro", "one", "uk "].iter().any(|w| words.starts_with(w));
    if !consonant && words.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" }
}

/// The sentences around a name. Which one an icon gets is drawn from its hash, so that the model meets names
/// alone, with an article and in a sentence.
const SENTENCES: [&str; 6] = [
    "an icon of {a}",
    "a picture of {a}",
    "icon of {}",
    "a drawing of {a}",
    "{} icon",
    "a symbol for {}",
];

/// The captions of an icon for training: its words, with an article, in a sentence, and under its other names.
///
/// Style and category are not among them. Which sets declare them can be told from how an icon is drawn, so that a
/// model would learn to tell sets by the form of captions, long before it learns what is drawn.
pub fn captions(name: &Name, others: &[String], draw: u64) -> Vec<String> {
    let words = name.words();
    let with_article = format!("{} {words}", article(&words));
    let sentence = SENTENCES[(draw % SENTENCES.len() as u64) as usize];
    let mut found = vec![
        words.clone(),
        with_article.clone(),
        sentence.replace("{a}", &with_article).replace("{}", &words),
    ];
    // The first ones: some sets list dozens of spellings.
    found.extend(others.iter().take(3).cloned());
    let mut seen = std::collections::BTreeSet::new();
    found.retain(|c| seen.insert(c.clone()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn affixes(prefixes: &[&str], suffixes: &[&str], styles: &[&str]) -> Affixes {
        let owned = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect();
        Affixes { prefixes: owned(prefixes), suffixes: owned(suffixes), styles: owned(styles) }
    }

    fn plain(name: &str) -> Name {
        read(name, &affixes(&[], &[], &["filled", "outline"]))
    }

    #[test]
    fn styles_sizes_and_counts_are_no_part_of_what_is_drawn() {
        let name = plain("user-plus-20-filled");
        assert_eq!(
            (name.words(), name.side, name.style),
            ("user plus".into(), Some(20), vec!["filled".to_owned()])
        );
        let name = plain("setup-02");
        assert_eq!((name.words(), name.count), ("setup".into(), Some(2)));
        assert_eq!(plain("ruler4").words(), "ruler");
        assert_eq!(plain("mp3-player").words(), "mp3 player");
        assert_eq!(plain("outline").words(), "outline");
        assert_eq!(plain("24").words(), "24");
        assert_eq!(plain("chart-line").words(), "chart line");
    }

    #[test]
    fn a_word_is_a_style_where_many_names_end_with_it() {
        let solid: Vec<String> =
            (0..30).flat_map(|i| [format!("a{i}"), format!("a{i}-solid-2")]).collect();
        let names = solid.iter().map(String::as_str).chain(["chart-line"]);
        assert_eq!(styles(names), ["solid"]);
    }

    #[test]
    fn declared_prefixes_and_suffixes_go_first() {
        let name = read("twotone-deck", &affixes(&["twotone", "outline"], &[], &[]));
        assert_eq!((name.words(), name.style), ("deck".into(), vec!["twotone".to_owned()]));
        assert_eq!(
            read("box-outline-thin", &affixes(&[], &["thin", "outline-thin"], &[])).words(),
            "box"
        );
        assert_eq!(read("deck-24px", &affixes(&[], &["24px"], &[])).side, Some(24));
    }

    #[test]
    fn captions_are_distinct_and_begin_with_the_words() {
        let found = captions(&plain("apple-filled"), &["fruit".into(), "apple".into()], 0);
        assert_eq!(found, ["apple", "an apple", "an icon of an apple", "fruit"]);
    }
}

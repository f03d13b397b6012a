//! Which icons of a set are used: one size of each drawing, a few styles of each thing.

use std::collections::{BTreeMap, BTreeSet};

use crate::policy;
use crate::set::Icon;

/// How many icons of a set were left out, and why.
pub type Account = BTreeMap<&'static str, usize>;

/// What applies to all sets.
pub struct Rules<'a> {
    /// Drawings of one thing in different styles.
    pub styles: usize,
    /// Whether logos and flags are wanted.
    pub brands: bool,
    /// Code points that stay out.
    pub held_out: &'a BTreeSet<String>,
}

/// The side that is kept of several: the one nearest to 24 pixels, the larger of two.
fn preference(icon: &Icon) -> (u32, u32) {
    let side = icon.parts.side.unwrap_or(24);
    (side.abs_diff(24), u32::MAX - side)
}

/// The icons that are used, in their order. Styles are spread: the first ones by a hash of the name.
pub fn select(icons: Vec<Icon>, rules: &Rules<'_>, account: &mut Account) -> Vec<Icon> {
    let mut count = |why| *account.entry(why).or_default() += 1;
    let mut drawings: BTreeMap<(String, Vec<String>, Option<u32>), Icon> = BTreeMap::new();
    for icon in icons {
        if policy::unwanted(&icon.parts.stem, icon.category.as_deref(), rules.brands) {
            count("letters, logos and other names");
            continue;
        }
        if icon.code_points.iter().any(|c| rules.held_out.contains(c)) {
            count("held-out emoji");
            continue;
        }
        let key = (icon.parts.words(), icon.parts.style.clone(), icon.parts.count);
        match drawings.get(&key) {
            Some(other) if preference(other) <= preference(&icon) => count("other sizes"),
            Some(_) => {
                count("other sizes");
                drawings.insert(key, icon);
            }
            None => drop(drawings.insert(key, icon)),
        }
    }
    let mut things: BTreeMap<String, Vec<Icon>> = BTreeMap::new();
    for ((words, ..), icon) in drawings {
        things.entry(words).or_default().push(icon);
    }
    let mut found = Vec::new();
    for (_, mut icons) in things {
        icons.sort_by_key(|i| hash(&i.name));
        for _ in rules.styles..icons.len() {
            count("further styles");
        }
        icons.truncate(rules.styles);
        found.append(&mut icons);
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Which icons, of their sets, words and names, form groups of `size` that one set names alike. What is left of a
/// set stays out, so that every group is whole.
pub fn groups_of_neighbors(
    icons: impl Iterator<Item = (String, String, String)>,
    size: usize,
) -> Vec<Vec<usize>> {
    let mut sets: BTreeMap<String, Vec<(String, String, usize)>> = BTreeMap::new();
    for (i, (set, words, name)) in icons.enumerate() {
        sets.entry(set).or_default().push((words, name, i));
    }
    let mut groups = Vec::new();
    for members in sets.values_mut() {
        members.sort();
        let whole = members.chunks_exact(size);
        groups.extend(whole.map(|group| group.iter().map(|(.., i)| *i).collect()));
    }
    groups
}

/// FNV-1a with a last mix: spreads names evenly, the same on every machine.
pub fn hash(text: &str) -> u64 {
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    for byte in text.bytes() {
        h = (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caption::{Affixes, read};

    fn icon(name: &str) -> Icon {
        let affixes = Affixes {
            styles: ["filled", "line", "bold", "thin"].map(str::to_owned).into(),
            ..Affixes::default()
        };
        Icon {
            name: name.into(),
            parts: read(name, &affixes),
            body: String::new(),
            view: [0.0; 4],
            others: Vec::new(),
            category: None,
            code_points: if name == "smile" { vec!["1f604".into()] } else { Vec::new() },
        }
    }

    #[test]
    fn one_size_and_few_styles_are_kept_and_all_others_counted() {
        let names = [
            "cup-16-filled",
            "cup-24-filled",
            "cup-32-filled",
            "cup-line",
            "cup-bold",
            "cup-thin",
            "smile",
            "b",
            "mug-2",
        ];
        let held_out = BTreeSet::from(["1f604".to_owned()]);
        let mut account = Account::new();
        let rules = Rules { styles: 3, brands: false, held_out: &held_out };
        let found = select(names.map(icon).into(), &rules, &mut account);
        assert_eq!(found.len(), 4);
        assert!(found.iter().any(|i| i.name == "mug-2"));
        assert!(found.iter().all(|i| !i.name.contains("16") && !i.name.contains("32")));
        assert_eq!(account.values().sum::<usize>() + found.len(), names.len());
    }

    #[test]
    fn neighbors_are_of_one_set_with_names_alike_and_groups_are_whole() {
        let named = [
            ("a", "user", "user"),
            ("b", "user", "user"),
            ("a", "cloud", "cloud"),
            ("a", "user add", "user-add"),
            ("a", "cloud up", "cloud-up"),
            ("b", "user add", "user-add"),
            ("a", "zebra", "zebra"),
        ];
        let owned = named.map(|(set, words, name)| (set.into(), words.into(), name.into()));
        let groups = groups_of_neighbors(owned.into_iter(), 2);
        assert_eq!(groups, [[2, 4], [0, 3], [1, 5]]);
    }
}

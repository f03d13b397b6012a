//! Categories of characters by the tables of Unicode 14, as the official code has them.

use unicode_general_category::{GeneralCategory as Category, get_general_category};

/// Code points that were assigned after Unicode 14, first and last of each range.
#[rustfmt::skip]
const LATER: [(u32, u32); 75] = [
    (0x897, 0x897), (0xcf3, 0xcf3), (0xece, 0xece), (0x1b4e, 0x1b4f), (0x1b7f, 0x1b7f),
    (0x1c89, 0x1c8a), (0x2427, 0x2429), (0x2ffc, 0x2fff), (0x31e4, 0x31e5), (0x31ef, 0x31ef),
    (0xa7cb, 0xa7cd), (0xa7da, 0xa7dc), (0x105c0, 0x105f3), (0x10d40, 0x10d65), (0x10d69, 0x10d85),
    (0x10d8e, 0x10d8f), (0x10ec2, 0x10ec4), (0x10efc, 0x10eff), (0x1123f, 0x11241), (0x11380, 0x11389),
    (0x1138b, 0x1138b), (0x1138e, 0x1138e), (0x11390, 0x113b5), (0x113b7, 0x113c0), (0x113c2, 0x113c2),
    (0x113c5, 0x113c5), (0x113c7, 0x113ca), (0x113cc, 0x113d5), (0x113d7, 0x113d8), (0x113e1, 0x113e2),
    (0x116d0, 0x116e3), (0x11b00, 0x11b09), (0x11bc0, 0x11be1), (0x11bf0, 0x11bf9), (0x11f00, 0x11f10),
    (0x11f12, 0x11f3a), (0x11f3e, 0x11f5a), (0x1342f, 0x1342f), (0x13439, 0x13455), (0x13460, 0x143fa),
    (0x16100, 0x16139), (0x16d40, 0x16d79), (0x18cff, 0x18cff), (0x1b132, 0x1b132), (0x1b155, 0x1b155),
    (0x1cc00, 0x1ccf9), (0x1cd00, 0x1ceb3), (0x1d2c0, 0x1d2d3), (0x1df25, 0x1df2a), (0x1e030, 0x1e06d),
    (0x1e08f, 0x1e08f), (0x1e4d0, 0x1e4f9), (0x1e5d0, 0x1e5fa), (0x1e5ff, 0x1e5ff), (0x1f6dc, 0x1f6dc),
    (0x1f774, 0x1f776), (0x1f77b, 0x1f77f), (0x1f7d9, 0x1f7d9), (0x1f8b2, 0x1f8bb), (0x1f8c0, 0x1f8c1),
    (0x1fa75, 0x1fa77), (0x1fa87, 0x1fa89), (0x1fa8f, 0x1fa8f), (0x1faad, 0x1faaf), (0x1fabb, 0x1fabf),
    (0x1fac6, 0x1fac6), (0x1face, 0x1facf), (0x1fada, 0x1fadc), (0x1fadf, 0x1fadf), (0x1fae8, 0x1fae9),
    (0x1faf7, 0x1faf8), (0x1fbcb, 0x1fbef), (0x2b739, 0x2b739), (0x2ebf0, 0x2ee5d), (0x31350, 0x323af),
];

/// The general category by the tables of Unicode 14; what was assigned later counts as unassigned.
pub(super) fn category(c: char) -> Category {
    match c {
        // The only one that was moved to another category since.
        '\u{1171e}' => Category::NonspacingMark,
        _ if is_later(c) => Category::Unassigned,
        _ => get_general_category(c),
    }
}

/// Whether a character was assigned after Unicode 14.
pub(super) fn is_later(c: char) -> bool {
    let c = u32::from(c);
    let at = LATER.partition_point(|(_, last)| *last < c);
    LATER.get(at).is_some_and(|(first, _)| *first <= c)
}

/// Whether a character is a decimal digit of any script, which Roman numerals and fractions are not.
#[must_use]
pub fn is_decimal_digit(c: char) -> bool {
    category(c) == Category::DecimalNumber
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_assigned_after_unicode_14_is_unassigned() {
        assert!(LATER.windows(2).all(|pair| pair[0].1 < pair[1].0));
        for c in ['\u{897}', '\u{11f44}', '\u{1fae8}', '\u{323af}'] {
            assert_eq!(category(c), Category::Unassigned, "{c:?}");
        }
        assert_eq!(category('\u{1fae7}'), Category::OtherSymbol);
        assert_eq!(category('\u{896}'), Category::Unassigned);
        assert_eq!(category('a'), Category::LowercaseLetter);
    }

    #[test]
    fn digits_of_all_scripts_are_decimal_and_fractions_are_not() {
        assert!(['7', '\u{663}', '\u{ff11}'].into_iter().all(is_decimal_digit));
        assert!(
            !['\u{bd}', '\u{b2}', '\u{2167}', '\u{17f7}', 'x'].into_iter().any(is_decimal_digit)
        );
    }
}

//! What is behind transparent pixels.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What is behind transparent pixels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Background {
    /// Transparency is ignored, as in the official code: a transparent pixel shows the color that the file has
    /// for it, which is often black.
    #[default]
    Official,
    /// Transparent images are laid over this color, red, green and blue.
    Color([u8; 3]),
}

impl Background {
    /// Transparent images are laid over white.
    pub const WHITE: Self = Self::Color([255; 3]);

    /// A channel of a pixel of this opacity.
    pub(super) fn blend(self, channel: usize, value: u8, alpha: u8) -> u8 {
        let Self::Color(color) = self else { return value };
        let (alpha, behind) = (u32::from(alpha), u32::from(color[channel]));
        ((u32::from(value) * alpha + behind * (255 - alpha) + 127) / 255) as u8
    }
}

impl fmt::Display for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Official => f.write_str("official"),
            Self::Color([255, 255, 255]) => f.write_str("white"),
            Self::Color([0, 0, 0]) => f.write_str("black"),
            Self::Color([r, g, b]) => write!(f, "#{r:02x}{g:02x}{b:02x}"),
        }
    }
}

impl FromStr for Background {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix('#').filter(|d| d.len() == 6 && d.is_ascii());
        let byte = |d: &str, at: usize| u8::from_str_radix(&d[at..at + 2], 16).ok();
        let color = |d| Some([byte(d, 0)?, byte(d, 2)?, byte(d, 4)?]);
        match text {
            "official" => Ok(Self::Official),
            "white" => Ok(Self::WHITE),
            "black" => Ok(Self::Color([0; 3])),
            _ => digits.and_then(color).map(Self::Color).ok_or_else(|| {
                format!("`{text}` is not a background; use official, white, black or #rrggbb")
            }),
        }
    }
}

impl TryFrom<String> for Background {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Background> for String {
    fn from(background: Background) -> Self {
        background.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backgrounds_are_read_as_they_are_written() {
        for text in ["official", "white", "black", "#0a7fff"] {
            assert_eq!(text.parse::<Background>().unwrap().to_string(), text);
        }
        assert_eq!("#FFFFFF".parse(), Ok(Background::WHITE));
        for text in ["", "#fff", "#12345g", "#1234567", "red", "#ééé"] {
            assert!(text.parse::<Background>().unwrap_err().contains("use official"), "{text}");
        }
    }
}

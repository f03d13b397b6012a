//! Small images in a terminal.

use albef_data::image::{ResizeOrder, RgbImage, resize_bicubic};
use albef_data::scenes::png;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::fit;
use crate::error::Result;

/// Columns that a preview takes at most.
const COLUMNS: usize = 32;
/// Lines that a preview takes at most.
const LINES: usize = 12;
/// Pixels along the longer side of an image that the terminal scales itself.
const SIDE: usize = 384;
/// Bytes of a part of an image, by the protocol of kitty.
const CHUNK: usize = 4096;
const ESCAPE: char = '\u{1b}';

/// How a terminal shows images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Preview {
    /// Half blocks (`▀`) in 24-bit color: two pixels a character.
    Blocks,
    /// Half blocks in the 256 colors of older terminals.
    #[serde(rename = "blocks-256")]
    Blocks256,
    /// The graphics protocol of kitty, which Ghostty and Konsole have too.
    Kitty,
    /// The inline images of iTerm2, which WezTerm and mintty have too.
    Iterm,
}

impl Preview {
    /// What the terminal with these environment variables shows; `None` for one without colors.
    ///
    /// ```
    /// use albef::inference::Preview;
    ///
    /// let terminal = |name: &str| (name == "TERM").then(|| "xterm-kitty".to_owned());
    /// assert_eq!(Preview::of_terminal(terminal), Some(Preview::Kitty));
    /// ```
    #[must_use]
    pub fn of_terminal(variable: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let value = |name: &str| variable(name).unwrap_or_default();
        let (term, program) = (value("TERM"), value("TERM_PROGRAM"));
        // Multiplexers draw the screen themselves and know text only.
        let multiplexed =
            !value("TMUX").is_empty() || term.starts_with("screen") || term.starts_with("tmux");
        let kitty = ["kitty", "ghostty"].iter().any(|name| term.contains(name));
        let iterm = ["iTerm.app", "WezTerm", "mintty"].contains(&program.as_str());
        match value("COLORTERM").as_str() {
            _ if term.is_empty() || term == "dumb" || !value("NO_COLOR").is_empty() => None,
            _ if !multiplexed && kitty => Some(Self::Kitty),
            _ if !multiplexed && iterm => Some(Self::Iterm),
            "truecolor" | "24bit" => Some(Self::Blocks),
            _ => Some(Self::Blocks256),
        }
    }

    /// The image as characters for the terminal, within 32 columns and 12 lines, line ends included.
    ///
    /// # Errors
    /// If the image has no pixels.
    pub fn draw(self, image: &RgbImage) -> Result<String> {
        match self {
            Self::Blocks => Ok(blocks(image, true)),
            Self::Blocks256 => Ok(blocks(image, false)),
            Self::Kitty => {
                let data = STANDARD.encode(png(&fit(image, SIDE))?);
                let (columns, lines) = cells(image);
                let mut head = format!("a=T,f=100,q=2,c={columns},r={lines},");
                let mut out = String::new();
                let mut rest = data.as_str();
                while !rest.is_empty() {
                    let (part, after) = rest.split_at(rest.len().min(CHUNK));
                    let more = u8::from(!after.is_empty());
                    out += &format!("{ESCAPE}_G{head}m={more};{part}{ESCAPE}\\");
                    head.clear();
                    rest = after;
                }
                Ok(out + "\n")
            }
            Self::Iterm => {
                let data = STANDARD.encode(png(&fit(image, SIDE))?);
                let (columns, lines) = cells(image);
                Ok(format!(
                    "{ESCAPE}]1337;File=inline=1;width={columns};height={lines}:{data}\u{7}\n"
                ))
            }
        }
    }
}

/// Columns and lines of an image; a character is twice as high as it is wide.
fn cells(image: &RgbImage) -> (usize, usize) {
    let (width, height) = (image.width.max(1), image.height.max(1));
    let scale = f64::min(COLUMNS as f64 / width as f64, 2.0 * LINES as f64 / height as f64);
    let within =
        |pixels: usize, most: usize| ((pixels as f64 * scale).round() as usize).clamp(1, most);
    (within(width, COLUMNS), within(height, 2 * LINES).div_ceil(2))
}

fn blocks(image: &RgbImage, true_color: bool) -> String {
    let (columns, lines) = cells(image);
    let small = resize_bicubic(image, columns, 2 * lines, ResizeOrder::default());
    let color = |line: usize, column: usize| {
        let at = 3 * (line * columns + column);
        let [r, g, b] = small.pixels[at..at + 3] else { return String::new() };
        match true_color {
            true => format!("2;{r};{g};{b}"),
            false => format!("5;{}", palette([r, g, b])),
        }
    };
    let mut out = String::new();
    for line in 0..lines {
        for column in 0..columns {
            let (upper, lower) = (color(2 * line, column), color(2 * line + 1, column));
            out += &format!("{ESCAPE}[38;{upper}m{ESCAPE}[48;{lower}m▀");
        }
        out += &format!("{ESCAPE}[0m\n");
    }
    out
}

/// The nearest of the 256 colors of xterm: of its cube of six steps and its ramp of grays.
fn palette(color: [u8; 3]) -> u8 {
    const STEPS: [u8; 6] = [0, 95, 135, 175, 215, 255];
    let nearest = |v: u8| (0..6_u8).min_by_key(|i| STEPS[usize::from(*i)].abs_diff(v)).unwrap_or(0);
    let [r, g, b] = color.map(nearest);
    let mean = color.iter().map(|v| u16::from(*v)).sum::<u16>() / 3;
    let gray = (mean.saturating_sub(3) / 10).min(23) as u8;
    let distance = |other: [u8; 3]| -> u32 {
        color.iter().zip(other).map(|(a, b)| u32::from(a.abs_diff(b)).pow(2)).sum()
    };
    let of_cube = distance([r, g, b].map(|i| STEPS[usize::from(i)]));
    match distance([8 + 10 * gray; 3]) < of_cube {
        true => 232 + gray,
        false => 16 + 36 * r + 6 * g + b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terminal(variables: &[(&str, &str)]) -> Option<Preview> {
        Preview::of_terminal(|name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned())
        })
    }

    #[test]
    fn terminals_are_told_apart() {
        assert_eq!(terminal(&[]), None);
        assert_eq!(terminal(&[("TERM", "dumb")]), None);
        assert_eq!(terminal(&[("TERM", "xterm"), ("NO_COLOR", "1")]), None);
        assert_eq!(terminal(&[("TERM", "xterm-256color")]), Some(Preview::Blocks256));
        let truecolor = ("COLORTERM", "truecolor");
        assert_eq!(terminal(&[("TERM", "xterm-256color"), truecolor]), Some(Preview::Blocks));
        assert_eq!(terminal(&[("TERM", "xterm-kitty"), truecolor]), Some(Preview::Kitty));
        let iterm = ("TERM_PROGRAM", "iTerm.app");
        assert_eq!(terminal(&[("TERM", "xterm-256color"), iterm]), Some(Preview::Iterm));
        let inside = [("TERM", "tmux-256color"), iterm, truecolor, ("TMUX", "/tmp/tmux,1,0")];
        assert_eq!(terminal(&inside), Some(Preview::Blocks));
    }

    #[test]
    fn blocks_are_the_pixels_of_the_image_in_its_proportions() {
        let mut image = RgbImage::filled(2, 2, [10, 20, 30]);
        image.pixels[6..12].copy_from_slice(&[200, 0, 0, 200, 0, 0]);
        let text = Preview::Blocks.draw(&image).unwrap();
        assert_eq!(text.lines().count(), LINES);
        let first = text.lines().next().unwrap();
        assert_eq!(first.matches('▀').count(), 2 * LINES);
        assert!(first.starts_with("\u{1b}[38;2;"), "{first:?}");
        let flat = RgbImage::filled(640, 80, [7, 8, 9]);
        let text = Preview::Blocks.draw(&flat).unwrap();
        assert_eq!(text.lines().count(), 2);
        assert_eq!(text.matches("[38;2;7;8;9m\u{1b}[48;2;7;8;9m▀").count(), 2 * COLUMNS);
        assert_eq!(
            Preview::Blocks.draw(&RgbImage::filled(1, 900, [0; 3])).unwrap().lines().count(),
            LINES
        );
    }

    #[test]
    fn colors_of_older_terminals_are_the_nearest_ones() {
        for (color, index) in [
            ([0, 0, 0], 16),
            ([255, 255, 255], 231),
            ([255, 0, 0], 196),
            ([128, 128, 128], 244),
            ([8, 8, 8], 232),
            ([95, 135, 175], 67),
        ] {
            assert_eq!(palette(color), index, "{color:?}");
        }
    }

    #[test]
    fn images_for_the_terminal_to_scale_come_back_from_what_is_sent() {
        let noise = (0..3 * 900 * 300).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8);
        let image = RgbImage::new(900, 300, noise.collect()).unwrap();
        let kitty = Preview::Kitty.draw(&image).unwrap();
        let parts: Vec<&str> = kitty.trim_end().split_terminator("\u{1b}\\").collect();
        assert!(parts.len() > 2, "{}", parts.len());
        assert!(parts[0].starts_with("\u{1b}_Ga=T,f=100,q=2,c=32,r=6,m=1;"));
        assert!(parts.last().unwrap().starts_with("\u{1b}_Gm=0;"));
        let data: String = parts.iter().map(|part| part.split_once(';').unwrap().1).collect();
        let iterm = Preview::Iterm.draw(&image).unwrap();
        let inline = iterm.trim_end_matches(['\n', '\u{7}']).split_once(':').unwrap().1;
        assert_eq!(inline, data);
        let file = STANDARD.decode(data).unwrap();
        let shown = albef_data::image::decode(&file, &Default::default()).unwrap();
        assert_eq!((shown.width, shown.height), (384, 128));
    }
}

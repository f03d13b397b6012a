//! From vector art to pixels.

use anyhow::{Context, Result, bail};
use resvg::tiny_skia::{Color, Pixmap, Transform};
use resvg::usvg::{Options, Tree};

/// An image of three bytes per pixel, row by row.
#[derive(Clone)]
pub struct Pixels {
    /// Pixels along a side.
    pub side: u32,
    /// Red, green, blue.
    pub rgb: Vec<u8>,
}

/// How an icon is drawn.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// What `currentColor` is.
    pub ink: [u8; 3],
    /// What is behind the icon.
    pub ground: [u8; 3],
    /// Factor on the width of strokes.
    pub weight: f32,
}

/// Black on white as drawn.
pub const PLAIN: Look = Look { ink: [0; 3], ground: [255; 3], weight: 1.0 };

const INKS: [[u8; 3]; 14] = [
    [0, 0, 0],
    [33, 33, 33],
    [66, 66, 66],
    [97, 97, 97],
    [183, 28, 28],
    [136, 14, 79],
    [74, 20, 140],
    [26, 35, 126],
    [13, 71, 161],
    [0, 96, 100],
    [27, 94, 32],
    [130, 119, 23],
    [230, 81, 0],
    [62, 39, 35],
];
const PALE: [[u8; 3]; 8] = [
    [255, 255, 255],
    [245, 245, 245],
    [227, 242, 253],
    [232, 245, 233],
    [255, 248, 225],
    [252, 228, 236],
    [243, 229, 245],
    [224, 224, 224],
];
const DARK: [[u8; 3]; 6] =
    [[0, 0, 0], [18, 18, 18], [38, 50, 56], [26, 35, 126], [27, 94, 32], [74, 20, 140]];

impl Look {
    /// Another look, from the bits of a hash: colors, ground (dark for one in six of those in a single color), weight
    /// of strokes.
    pub fn drawn(draw: u64, colored: bool) -> Self {
        let pick = |shift: u32, n: usize| ((draw >> shift) & 0xffff) as usize % n;
        if colored {
            return Self { ground: PALE[pick(0, PALE.len())], ..PLAIN };
        }
        let weight = [0.6, 0.8, 1.0, 1.25, 1.6][pick(48, 5)];
        if pick(32, 6) == 0 {
            return Self {
                ink: PALE[pick(0, PALE.len())],
                ground: DARK[pick(16, DARK.len())],
                weight,
            };
        }
        Self { ink: INKS[pick(0, INKS.len())], ground: PALE[pick(16, PALE.len())], weight }
    }
}

/// The drawing of an icon without its surroundings.
pub struct Art<'a> {
    /// SVG elements.
    pub body: &'a str,
    /// Left, top, width and height of what is shown.
    pub view: [f64; 4],
}

impl Art<'_> {
    fn document(&self, look: &Look, side: u32) -> String {
        let [left, top, width, height] = self.view;
        let [r, g, b] = look.ink;
        let body = self.body.replace("currentColor", &format!("#{r:02x}{g:02x}{b:02x}"));
        let body = weighted(&body, look.weight);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" xmlns:xlink=\"http://www.w3.org/1999/xlink\" width=\"{side}\" \
             height=\"{side}\" viewBox=\"{left} {top} {width} {height}\">{body}</svg>"
        )
    }

    /// Draws it.
    ///
    /// # Errors
    /// If it is not SVG, or shows nothing.
    pub fn draw(&self, look: &Look, side: u32) -> Result<Pixels> {
        let tree =
            Tree::from_str(&self.document(look, side), &Options::default()).context("not SVG")?;
        let mut map = Pixmap::new(side, side).context("no room for the image")?;
        let [r, g, b] = look.ground;
        map.fill(Color::from_rgba8(r, g, b, 255));
        resvg::render(&tree, Transform::identity(), &mut map.as_mut());
        let rgb: Vec<u8> = map.data().chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect();
        let ink: u64 = rgb.chunks_exact(3).map(|p| distance(p, look.ground)).sum();
        // A hundredth of the area in the weakest color that is seen.
        if ink < u64::from(side * side) * 3 / 10 * 3 {
            bail!("shows nothing");
        }
        Ok(Pixels { side, rgb })
    }
}

fn distance(pixel: &[u8], ground: [u8; 3]) -> u64 {
    pixel.iter().zip(ground).map(|(a, b)| u64::from(a.abs_diff(b))).sum()
}

/// The same elements with other widths of strokes.
fn weighted(body: &str, factor: f32) -> String {
    const KEY: &str = "stroke-width=\"";
    if (factor - 1.0).abs() < f32::EPSILON {
        return body.to_owned();
    }
    let mut parts = body.split(KEY);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        out.push_str(KEY);
        match part.split_once('"') {
            Some((number, rest)) => {
                match number.parse::<f32>() {
                    Ok(width) => out.push_str(&format!("{}", width * factor)),
                    Err(_) => out.push_str(number),
                }
                out.push('"');
                out.push_str(rest);
            }
            None => out.push_str(part),
        }
    }
    out
}

impl Pixels {
    /// A PNG file, in gray where there is no color.
    ///
    /// # Errors
    /// Never with a side above 0.
    pub fn png(&self) -> Result<Vec<u8>> {
        let gray = self.rgb.chunks_exact(3).all(|p| p[0] == p[1] && p[1] == p[2]);
        let bytes: Vec<u8> =
            if gray { self.rgb.iter().step_by(3).copied().collect() } else { self.rgb.clone() };
        let mut out = Vec::new();
        let mut encoder = png::Encoder::new(&mut out, self.side, self.side);
        encoder.set_color(if gray { png::ColorType::Grayscale } else { png::ColorType::Rgb });
        encoder.set_compression(png::Compression::Balanced);
        encoder.write_header()?.write_image_data(&bytes)?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CIRCLE: Art<'static> = Art {
        body: "<circle cx=\"12\" cy=\"12\" r=\"6\" fill=\"none\" stroke=\"currentColor\" stroke-width=\"2\"/>",
        view: [0.0, 0.0, 24.0, 24.0],
    };

    fn ink(look: &Look) -> u64 {
        CIRCLE.draw(look, 24).unwrap().rgb.chunks_exact(3).map(|p| distance(p, look.ground)).sum()
    }

    #[test]
    fn a_circle_is_black_on_white_and_bolder_when_asked() {
        let drawn = CIRCLE.draw(&PLAIN, 24).unwrap();
        assert_eq!(drawn.rgb[..3], [255; 3]);
        assert!(ink(&Look { weight: 1.6, ..PLAIN }) > ink(&PLAIN) * 13 / 10);
        assert!(drawn.png().unwrap().len() < 600);
    }

    #[test]
    fn nothing_to_see_is_an_error() {
        let empty = Art { body: "<g/>", ..CIRCLE };
        assert!(empty.draw(&PLAIN, 24).is_err());
        assert!(CIRCLE.draw(&Look { ink: [255; 3], ..PLAIN }, 24).is_err());
        assert!(Art { body: "<circle", ..CIRCLE }.draw(&PLAIN, 24).is_err());
    }

    #[test]
    fn looks_are_drawn_from_the_hash_alone() {
        for draw in [0_u64, 1 << 20, u64::MAX / 3, 0x9e37_79b9_7f4a_7c15] {
            let (a, b) = (Look::drawn(draw, false), Look::drawn(draw, false));
            assert_eq!((a.ink, a.ground), (b.ink, b.ground));
            assert_ne!(a.ink, a.ground);
        }
        assert_eq!(Look::drawn(7, true).ink, PLAIN.ink);
    }
}

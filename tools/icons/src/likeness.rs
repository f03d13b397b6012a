//! Which drawings are the same: by bytes, and nearly so after shrinking.

use crate::render::Pixels;

const SIDE: usize = 16;
/// Two drawings look alike if what differs is at most this share of their ink.
const SHARE: f64 = 0.12;

/// A drawing in 16 by 16 cells of ink, and how much there is of it.
#[derive(Clone)]
pub struct Fingerprint {
    cells: [u8; SIDE * SIDE],
    ink: u32,
}

impl Fingerprint {
    /// Of a drawing on white.
    pub fn of(image: &Pixels) -> Self {
        let side = image.side as usize;
        let (mut sums, mut counts) = ([0_u32; SIDE * SIDE], [0_u32; SIDE * SIDE]);
        for (place, pixel) in image.rgb.chunks_exact(3).enumerate() {
            let cell = place / side * SIDE / side * SIDE + place % side * SIDE / side;
            sums[cell] += (u32::from(pixel[0]) + u32::from(pixel[1]) * 2 + u32::from(pixel[2])) / 4;
            counts[cell] += 1;
        }
        let mut cells = [0; SIDE * SIDE];
        for (cell, (sum, count)) in cells.iter_mut().zip(sums.iter().zip(counts)) {
            *cell = 255 - (sum / count.max(1)) as u8;
        }
        Self { cells, ink: cells.iter().map(|c| u32::from(*c)).sum() }
    }

    /// How much ink differs.
    pub fn distance(&self, other: &Self) -> u32 {
        self.cells.iter().zip(other.cells).map(|(a, b)| u32::from(a.abs_diff(b))).sum()
    }

    fn alike(&self, other: &Self) -> bool {
        let most = SHARE * f64::from(self.ink + other.ink) / 2.0;
        f64::from(self.distance(other)) <= most
    }
}

/// For each of `drawings` whether it looks like one of `kept_apart`.
pub fn alike_any(
    drawings: &[&Fingerprint],
    kept_apart: &[&Fingerprint],
    threads: usize,
) -> Vec<bool> {
    let mut sorted = kept_apart.to_vec();
    sorted.sort_by_key(|f| f.ink);
    let one = |drawing: &Fingerprint| {
        // The ink of two that look alike differs by no more than what differs between them.
        let ink = f64::from(drawing.ink);
        let (least, most) = (
            ink * (1.0 - SHARE / 2.0) / (1.0 + SHARE / 2.0),
            ink * (1.0 + SHARE / 2.0) / (1.0 - SHARE / 2.0),
        );
        let from = sorted.partition_point(|f| f64::from(f.ink) < least.floor());
        sorted[from..]
            .iter()
            .take_while(|f| f64::from(f.ink) <= most.ceil())
            .any(|f| drawing.alike(f))
    };
    let part = drawings.len().div_ceil(threads.max(1)).max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = drawings
            .chunks(part)
            .map(|chunk| scope.spawn(move || chunk.iter().map(|d| one(d)).collect::<Vec<_>>()))
            .collect();
        workers.into_iter().flat_map(|w| w.join().unwrap_or_default()).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(from: usize, to: usize) -> Fingerprint {
        let rgb = (0..64 * 64)
            .flat_map(|i| {
                let inside = (from..to).contains(&(i / 64)) && (from..to).contains(&(i % 64));
                [if inside { 0 } else { 255 }; 3]
            })
            .collect();
        Fingerprint::of(&Pixels { side: 64, rgb })
    }

    #[test]
    fn a_pixel_more_is_alike_and_a_quarter_more_is_not() {
        let apart = square(16, 48);
        let drawings = [square(16, 48), square(16, 49), square(12, 52), square(0, 20)];
        let found = alike_any(&drawings.iter().collect::<Vec<_>>(), &[&apart], 2);
        assert_eq!(found, [true, true, false, false]);
    }
}

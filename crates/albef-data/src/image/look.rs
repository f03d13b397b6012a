//! What an image looks like from afar.

use super::RgbImage;

/// The means of what `value` makes of pixels, over the cells of a grid, row by row. Cells of an image with fewer pixels
/// than cells take the mean of the cell before.
pub fn cell_means<const N: usize>(
    image: &RgbImage,
    [columns, rows]: [usize; 2],
    value: impl Fn([u64; 3]) -> [u64; N],
) -> Vec<[u64; N]> {
    let mut cells = vec![([0_u64; N], 0_u64); columns * rows];
    // A cell of a small image is at least one pixel; of a large one, every few pixels are enough.
    let step = |side: usize, cells: usize| (side / (cells * 16)).max(1);
    let place = |at: usize, side: usize, cells: usize| at * cells / side;
    let (dx, dy) = (step(image.width, columns), step(image.height, rows));
    for y in (0..image.height).step_by(dy) {
        for x in (0..image.width).step_by(dx) {
            let cell = place(y, image.height, rows) * columns + place(x, image.width, columns);
            let (sums, count) = &mut cells[cell];
            let values = value(image.at(x, y).map(u64::from));
            sums.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            *count += 1;
        }
    }
    let mut last = [0; N];
    let mean = |(sums, count): ([u64; N], u64)| {
        if count > 0 {
            last = sums.map(|sum| sum / count);
        }
        last
    };
    cells.into_iter().map(mean).collect()
}

/// What an image looks like from afar: the mean colors of 8 by 8 cells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look(Vec<u8>);

impl Look {
    /// Levels by which the mean color of a cell may differ in an image that is only of another size or compression.
    /// Of pairs of different icons with near hashes none had a difference below 30; of images resized and compressed
    /// as JPEG, nine of ten have one below 20.
    const TOLERANCE: u8 = 24;

    /// Of an image.
    #[must_use]
    pub fn of(image: &RgbImage) -> Self {
        let cells = match image.is_empty() {
            true => Vec::new(),
            false => cell_means(image, [8, 8], |rgb| rgb),
        };
        Self(cells.into_iter().flatten().map(|level| level as u8).collect())
    }

    /// Whether two images are the same to the eye.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let mut levels = self.0.iter().zip(&other.0);
        self.0.len() == other.0.len() && levels.all(|(a, b)| a.abs_diff(*b) <= Self::TOLERANCE)
    }
}

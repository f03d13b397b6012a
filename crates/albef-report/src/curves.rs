//! Curves as SVG, each series in a panel of its own.

use std::fmt::Write;

use crate::html::escape;

/// A curve.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Points, rising in x.
    pub points: Vec<(f64, f64)>,
}

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 190.0;
const LEFT: f64 = 46.0;
const BOTTOM: f64 = 26.0;
const TOP: f64 = 28.0;

/// The running mean of a curve, without a pull towards its first value.
fn smooth(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let keep = 1.0 - 1.0 / (points.len() as f64 / 25.0).clamp(1.0, 50.0);
    let (mut sum, mut weight) = (0.0, 0.0);
    points
        .iter()
        .map(|(x, y)| {
            sum = sum * keep + y;
            weight = weight * keep + 1.0;
            (*x, sum / weight)
        })
        .collect()
}

/// Colors of curves, told apart with any color vision, on light and on dark ground.
const COLORS: [&str; 3] = ["#0a84c6", "#d55e00", "#009e73"];

/// Colors of everything else, by the scheme of the reader.
const STYLE: &str = ".albef-ground{fill:#fff}.albef-name{fill:#1c1e21}.albef-tick{fill:#5c6370}\
    .albef-grid{stroke:#e3e5e8}@media(prefers-color-scheme:dark){.albef-ground{fill:#23262b}\
    .albef-name{fill:#e8eaed}.albef-tick{fill:#a3abb8}.albef-grid{stroke:#3a3f47}}";

/// Panels side by side in one drawing, each with the raw curve in pale and its running mean in strong
/// color.
#[must_use]
pub fn curves_svg(series: &[Series]) -> String {
    let mut out = opened(WIDTH * series.len().max(1) as f64);
    for (i, s) in series.iter().enumerate() {
        panel(&mut out, s, WIDTH * i as f64, COLORS[i % COLORS.len()]);
    }
    out.push_str("</svg>");
    out
}

/// The panels of [`curves_svg`] as drawings of their own, which a narrow page shows one below another.
#[must_use]
pub fn curve_panels(series: &[Series]) -> String {
    let mut out = String::new();
    for (i, s) in series.iter().enumerate() {
        out.push_str(&opened(WIDTH));
        panel(&mut out, s, 0.0, COLORS[i % COLORS.len()]);
        out.push_str("</svg>");
    }
    out
}

fn opened(width: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {HEIGHT}\" \
         width=\"{width}\" height=\"{HEIGHT}\" font-family=\"system-ui, sans-serif\" \
         font-size=\"11\" role=\"img\"><style>{STYLE}</style>\
         <rect width=\"100%\" height=\"100%\" class=\"albef-ground\"/>"
    )
}

fn panel(out: &mut String, s: &Series, x0: f64, color: &str) {
    let points: Vec<(f64, f64)> =
        s.points.iter().copied().filter(|p| p.0.is_finite() && p.1.is_finite()).collect();
    let name = escape(&s.name);
    let _ = write!(
        out,
        "<text x=\"{}\" y=\"18\" font-weight=\"600\" class=\"albef-name\">{name}</text>",
        x0 + LEFT
    );
    let (Some(first), Some(last)) = (points.first(), points.last()) else {
        let _ =
            write!(out, "<text x=\"{}\" y=\"60\" class=\"albef-tick\">no data</text>", x0 + LEFT);
        return;
    };
    let low = points.iter().map(|p| p.1).fold(f64::INFINITY, f64::min);
    let high = points.iter().map(|p| p.1).fold(f64::NEG_INFINITY, f64::max);
    let span = if high > low { high - low } else { 1.0 };
    let reach = if last.0 > first.0 { last.0 - first.0 } else { 1.0 };
    let (w, h) = (WIDTH - LEFT - 14.0, HEIGHT - BOTTOM - TOP);
    let place =
        |(x, y): (f64, f64)| (x0 + LEFT + (x - first.0) / reach * w, TOP + (high - y) / span * h);
    for tick in 0..=4 {
        let value = low + span * f64::from(tick) / 4.0;
        let (_, y) = place((first.0, value));
        let (a, b) = (x0 + LEFT, x0 + WIDTH - 14.0);
        let _ = write!(
            out,
            "<line x1=\"{a:.1}\" x2=\"{b:.1}\" y1=\"{y:.1}\" y2=\"{y:.1}\" class=\"albef-grid\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" class=\"albef-tick\">{value:.2}</text>",
            a - 5.0,
            y + 4.0
        );
    }
    for (anchor, x) in [("start", first.0), ("end", last.0)] {
        let (px, _) = place((x, low));
        let y = HEIGHT - 8.0;
        let _ = write!(
            out,
            "<text x=\"{px:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"albef-tick\">{x:.0}</text>"
        );
    }
    for (curve, opacity, width) in [(points.clone(), 0.25, 1.0), (smooth(&points), 1.0, 2.0)] {
        // More points than pixels add nothing to the image.
        let step = curve.len().div_ceil(600).max(1);
        let mut path = String::new();
        for (i, p) in curve.iter().step_by(step).enumerate() {
            let (x, y) = place(*p);
            let _ = write!(path, "{}{x:.1} {y:.1}", if i == 0 { "M" } else { "L" });
        }
        let _ = write!(
            out,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{color}\" stroke-width=\"{width}\" \
             stroke-opacity=\"{opacity}\"/>"
        );
    }
}

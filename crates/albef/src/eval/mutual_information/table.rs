//! The analysis as a table.

use std::fmt;

use super::{Agreement, Analysis, Contrastive, Masked};

/// A row of numbers below a name.
fn row(f: &mut fmt::Formatter<'_>, name: &str, values: &[f64]) -> fmt::Result {
    write!(f, "\n{name:<34}")?;
    values.iter().enumerate().try_for_each(|(column, value)| match column {
        2 => write!(f, "{value:>10.4}"),
        _ => write!(f, "{value:>16.4}"),
    })
}

/// A row for both directions, with their mean.
fn both(f: &mut fmt::Formatter<'_>, name: &str, values: [f64; 2]) -> fmt::Result {
    row(f, name, &[values[0], values[1], (values[0] + values[1]) / 2.0])
}

fn contrast(f: &mut fmt::Formatter<'_>, itc: &Contrastive) -> fmt::Result {
    let (a, b) = (&itc.i2t, &itc.t2i);
    let teacher = |of: fn(&Agreement) -> f64| [of(&a.teacher), of(&b.teacher)];
    both(f, "hard ITC loss", [a.bound.loss, b.bound.loss])?;
    let name = format!("MI bound (at most {:.4})", itc.ceiling);
    both(f, &name, [a.bound.bound, b.bound.bound])?;
    both(f, "teacher entropy H(q)", teacher(|t| t.entropy))?;
    row(f, "effective number of views", &teacher(|t| t.effective_views))?;
    both(f, "KL(q||p)", teacher(|t| t.kl))?;
    both(f, "teacher mass on the own pair", teacher(|t| t.mass_on_label))?;
    let name = format!("multi-positive loss (from {:.4})", itc.multi_positive_floor);
    both(f, &name, [a.multi_positive_loss, b.multi_positive_loss])?;
    row(f, "positives in the batch, by image_id", &[itc.positives])
}

fn masked(f: &mut fmt::Formatter<'_>, mlm: &Masked, [low, high]: [f64; 2]) -> fmt::Result {
    write!(f, "\nmasked language modeling, {} tokens", mlm.words)?;
    write!(f, "\n{:<34}{:>16}{:>16}", "", "own image", "other image")?;
    row(f, "hard MLM loss", &[mlm.own_image.loss, mlm.other_image.loss])?;
    let name = format!("MI bound (at most {:.4})", mlm.ceiling);
    row(f, &name, &[mlm.own_image.bound, mlm.other_image.bound])?;
    row(f, "what the image adds (difference)", &[mlm.difference])?;
    write!(f, " [{low:.4}, {high:.4}]")?;
    row(f, "teacher entropy H(q)", &[mlm.teacher.entropy])?;
    row(f, "effective number of views", &[mlm.teacher.effective_views])?;
    row(f, "KL(q||p)", &[mlm.teacher.kl])?;
    row(f, "teacher mass on the token", &[mlm.teacher.mass_on_label])
}

impl fmt::Display for Analysis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (report, itc) = (&self.report, &self.report.itc);
        writeln!(
            f,
            "{} pairs ({} left over from whole batches); teacher: {}; all in nats",
            report.pairs, self.pairs_left_over, self.teacher
        )?;
        writeln!(f, "contrast over {} candidates ({} from the queue)", itc.candidates, self.queue)?;
        write!(f, "{:<34}{:>16}{:>16}{:>10}", "", "image to text", "text to image", "mean")?;
        contrast(f, itc)?;
        match &report.mlm {
            Some(mlm) => masked(f, mlm, self.difference_interval()),
            None if self.mlm_head => write!(f, "\nmasked language modeling: no token was masked"),
            None => write!(f, "\nmasked language modeling: the weights have no vocabulary head"),
        }
    }
}

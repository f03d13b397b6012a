//! The learned temperature of contrast (paper equation 1).

use crate::params::{Params, from_vec, take_vec};

/// Bounds of the temperature.
pub const TEMPERATURE: (f32, f32) = (0.001, 0.5);

/// Puts the temperature back into its bounds, without gradient.
pub fn clamp_temperature(online: &mut Params) {
    let device = online.device().clone();
    if let Some(temp) = online.value_mut("temp") {
        let mut value = take_vec(temp);
        value.iter_mut().for_each(|t| *t = t.clamp(TEMPERATURE.0, TEMPERATURE.1));
        let n = value.len();
        *temp = from_vec(value, [n], &device);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::params::{cpu, to_vec};

    #[test]
    fn a_temperature_comes_back_into_its_bounds_and_one_within_stays() {
        for (given, want) in [(0.0, 0.001), (0.07, 0.07), (3.0, 0.5)] {
            let mut params = Params::new(&cpu());
            params.insert("temp", &[], vec![given]).unwrap();
            clamp_temperature(&mut params);
            assert_eq!(to_vec(params.entries()[0].value.clone()), [want]);
        }
    }
}

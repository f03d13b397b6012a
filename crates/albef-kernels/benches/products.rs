//! Times linear layers at the sizes of the model: best of the rounds, GFLOP/s.
//!
//! `cargo bench -p albef-kernels --bench products`

use std::time::Instant;

use albef_kernels::{
    Activation, Precision, Weight, bf16_unit, linear, linear_backward_input, linear_backward_weight,
};

fn best(rounds: usize, mut work: impl FnMut()) -> f64 {
    work();
    let time = |_| {
        let start = Instant::now();
        work();
        start.elapsed().as_secs_f64()
    };
    (0..rounds).map(time).fold(f64::MAX, f64::min)
}

fn main() {
    table(Precision::F32);
    println!("bf16 unit: {:?}", bf16_unit());
    table(Precision::Bf16);
}

fn table(precision: Precision) {
    println!("{:>20} {:>9} {:>9} {:>9} {:>9}", "m x k x n", "forward", "gelu", "input", "weight");
    let sizes = [
        [2056, 768, 768],
        [2056, 768, 3072],
        [2056, 3072, 768],
        [2080, 384, 1536],
        [200, 768, 768],
        [60, 384, 30_522],
    ];
    for [m, k, n] in sizes {
        let fill = |len: usize| (0..len).map(|i| (i % 13) as f32 * 0.1 - 0.6).collect::<Vec<_>>();
        let (x, w, b, dy) = (fill(m * k), fill(n * k), fill(n), fill(m * n));
        let mut y = vec![0.0; m * n];
        let (mut dx, mut dw) = (vec![0.0; m * k], vec![0.0; n * k]);
        let rate = |seconds: f64| 2.0 * (m * k * n) as f64 / seconds / 1e9;
        let mut forward = |activation| {
            rate(best(7, || {
                let weight = Weight::new(&w, n, k, precision);
                linear(weight, &x, m, Some(&b), activation, None, &mut y);
            }))
        };
        let (plain, gelu) = (forward(Activation::None), forward(Activation::Gelu));
        let input = rate(best(7, || linear_backward_input(&dy, &w, [m, n, k], precision, &mut dx)));
        let weight =
            rate(best(7, || linear_backward_weight(&dy, &x, [m, n, k], precision, &mut dw)));
        let name = format!("{m} x {k} x {n}");
        println!("{name:>20} {plain:>9.0} {gelu:>9.0} {input:>9.0} {weight:>9.0}");
    }
}

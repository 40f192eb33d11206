//! The order of measurements. Pure.

/// Measures these lanes side by side, each in as many slices as there are lanes, and returns the
/// mean of each lane. Slices are spread over the whole round, so that other load on the machine
/// affects all lanes.
pub fn means<L, const N: usize>(
    round: usize,
    lanes: &[L],
    measure: impl Fn(&L) -> [f64; N],
) -> Vec<[f64; N]> {
    let slices = lanes.len();
    let mut means = vec![[0.0; N]; lanes.len()];
    for slice in 0..slices {
        for lane in order(round * slices + slice, lanes.len()) {
            for (mean, number) in means[lane].iter_mut().zip(measure(&lanes[lane])) {
                *mean += number / slices as f64;
            }
        }
    }
    means
}

/// Returns the order of the lanes in a turn. Over the turns of two rounds each lane follows each
/// other lane equally often, so no lane always inherits the caches and the leftover work of the
/// slowest. Plain rotation would keep each lane's predecessor. (This is a Williams design.)
fn order(turn: usize, lanes: usize) -> Vec<usize> {
    let zigzag = |at: usize| {
        if at.is_multiple_of(2) {
            lanes - at / 2
        } else {
            at / 2 + 1
        }
    };
    let mut order: Vec<_> = (0..lanes).map(|at| (zigzag(at) + turn) % lanes).collect();
    // An odd number of lanes needs both directions.
    if !(turn / lanes).is_multiple_of(2) {
        order.reverse();
    }
    order
}

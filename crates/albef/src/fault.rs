//! Faults that a test puts into the training step, one at a time, to see that the golden replay finds
//! them. Outside of this crate's unit tests [`injected`] is constant and nothing of it is compiled.

/// A way to get the training step wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    AccumulationNotAveraged,
    AlphaOfNextStep,
    AssignmentLabelsSwapped,
    BiasCorrectionOffByOne,
    ClampLeftOut,
    HardLabelsOnly,
    ImageIdsIgnored,
    MatchingLabelsOfNegatives,
    MaskedLabelsShifted,
    MomentumAfterForward,
    NegativesOfWrongSide,
    OnlineFeaturesInQueue,
    OnlineTargets,
    QueueBeforeLoss,
    ScheduleStepTooEarly,
    TemperatureGradientDropped,
    WeightDecayOnBiases,
    WeightsOfAnswersIgnored,
}

#[cfg(test)]
impl Fault {
    /// All of them.
    pub(crate) const ALL: [Self; 18] = [
        Self::AccumulationNotAveraged,
        Self::AlphaOfNextStep,
        Self::AssignmentLabelsSwapped,
        Self::BiasCorrectionOffByOne,
        Self::ClampLeftOut,
        Self::HardLabelsOnly,
        Self::ImageIdsIgnored,
        Self::MatchingLabelsOfNegatives,
        Self::MaskedLabelsShifted,
        Self::MomentumAfterForward,
        Self::NegativesOfWrongSide,
        Self::OnlineFeaturesInQueue,
        Self::OnlineTargets,
        Self::QueueBeforeLoss,
        Self::ScheduleStepTooEarly,
        Self::TemperatureGradientDropped,
        Self::WeightDecayOnBiases,
        Self::WeightsOfAnswersIgnored,
    ];
}

/// Whether a test has put this fault in.
#[cfg(not(test))]
pub(crate) const fn injected(_: Fault) -> bool {
    false
}

#[cfg(test)]
pub(crate) use testing::{injected, with};

#[cfg(test)]
mod testing {
    use std::cell::Cell;

    use super::Fault;

    thread_local! {
        static CURRENT: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    pub(crate) fn injected(fault: Fault) -> bool {
        CURRENT.get() == Some(fault)
    }

    /// Runs `f` on this thread with a fault in.
    pub(crate) fn with<T>(fault: Option<Fault>, f: impl FnOnce() -> T) -> T {
        struct Reset(Option<Fault>);
        impl Drop for Reset {
            fn drop(&mut self) {
                CURRENT.set(self.0);
            }
        }
        let _reset = Reset(CURRENT.replace(fault));
        f()
    }
}

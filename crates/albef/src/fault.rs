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

/// Whether a test has put this fault in.
pub(crate) const fn injected(_: Fault) -> bool {
    false
}

//! The durable truth: the Store trait and its SQL implementations

//! What AppArmor lets a caller execute, and the addition to its profile where that is too little.

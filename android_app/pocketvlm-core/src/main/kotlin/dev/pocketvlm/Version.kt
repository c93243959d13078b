package dev.pocketvlm

/** The version of this library and of pocketvlm: a bundle says which it needs. */
internal const val VERSION: String = "0.1.0"

/** The version of ONNX Runtime that it is built with (`pom.xml`). */
internal const val ONNXRUNTIME_VERSION: String = "1.29.0"

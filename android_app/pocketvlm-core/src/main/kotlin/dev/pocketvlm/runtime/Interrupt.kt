package dev.pocketvlm.runtime

import ai.onnxruntime.OrtSession

/** A run that was ended by [Interrupt.cancel]. What was computed before it stands. */
internal class Cancelled : Exception("cancelled")

/** Ends one answer before its end, from any thread: within a step, since ONNX Runtime looks between two operators. */
internal class Interrupt : AutoCloseable {
    /** What the answer's runs are given. */
    val options = OrtSession.RunOptions()
    private var isClosed = false

    @Volatile
    var isCancelled: Boolean = false
        private set

    /** Returns at once. */
    @Synchronized
    fun cancel() {
        isCancelled = true
        if (!isClosed) options.setTerminate(true)
    }

    /** The answer has ended; [cancel] does nothing any more. */
    @Synchronized
    override fun close() {
        if (!isClosed) options.close()
        isClosed = true
    }
}

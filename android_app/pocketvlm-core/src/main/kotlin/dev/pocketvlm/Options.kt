package dev.pocketvlm

import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder

/**
 * How a bundle is loaded.
 *
 * @property threads of the engine; 0: as many as the processor has, 4 at most, since a phone's other cores are slow ones
 * @property keepVision false: the vision part is in memory only while a picture is encoded
 * @property imageCacheBytes most bytes of the encoded pictures that are kept: the same one is not encoded again
 * @property memoryBudget bytes: a bundle that needs more is refused before it is loaded; 0: no limit
 * @property cacheDirectory where what was read of a tokenizer is kept, so that the next start need not read it again; null:
 *   nowhere. On Android it is the app's own cache directory
 * @property verify hash every byte of the bundle's files, not only a sample of them
 * @property kvMemory where KV caches lie
 * @property engine what is to run it, by the name that the bundle's manifest has; null: the best by the bundle's preference
 *   that runs here. This library has `onnx`, and refuses others by name
 * @throws IllegalArgumentException a value is out of range; the line names it
 */
public class Options(
    public val threads: Int = 0,
    public val keepVision: Boolean = true,
    public val imageCacheBytes: Long = 64L shl 20,
    public val memoryBudget: Long = 0,
    public val verify: Boolean = false,
    public val cacheDirectory: File? = null,
    public val kvMemory: KvMemory = KvMemory.Direct,
    public val engine: String? = null,
) {
    init {
        require(threads in 0..MAX_THREADS) { "threads must be from 0 to $MAX_THREADS, not $threads" }
        require(imageCacheBytes >= 0) { "imageCacheBytes must be at least 0, not $imageCacheBytes" }
        require(memoryBudget >= 0) { "memoryBudget must be at least 0, not $memoryBudget" }
    }

    /** What the engine is told. */
    internal val engineThreads: Int
        get() = if (threads > 0) threads else minOf(DEFAULT_THREADS, Runtime.getRuntime().availableProcessors())

    private companion object {
        const val MAX_THREADS = 1024
        const val DEFAULT_THREADS = 4
    }
}

/** Gives the memory of KV caches. Called from the model's own threads. */
public fun interface KvMemory {
    /**
     * So many bytes, all zero.
     *
     * @throws OutOfMemoryError there are not so many
     */
    public fun allocate(bytes: Int): KvBuffer

    /** Direct buffers of the JVM. On Android those are part of the Java heap: use shared memory there. */
    public object Direct : KvMemory {
        override fun allocate(bytes: Int): KvBuffer = KvBuffer(ByteBuffer.allocateDirect(bytes)) {}
    }
}

/**
 * A direct buffer for one half of a layer's KV cache.
 *
 * @param release gives the memory back; called once, when nothing reads it any more
 */
public class KvBuffer(bytes: ByteBuffer, private val release: () -> Unit) : AutoCloseable {
    internal val bytes: ByteBuffer = bytes.order(ByteOrder.nativeOrder())
    private var isClosed = false

    init {
        require(bytes.isDirect) { "a KV cache needs direct buffers" }
    }

    @Synchronized
    override fun close() {
        if (!isClosed) release()
        isClosed = true
    }
}

/** What [PocketVlm.open] is doing, in this order; a model without vision has no [VISION]. */
public enum class LoadStep { MANIFEST, FILES, TOKENIZER, VISION, DECODER, READY }

/** What [PocketVlm.trimMemory] gives back. */
public enum class Trim {
    /** The vision part; the next picture loads it again. */
    VISION,

    /** The encoded pictures that are kept; a conversation goes on without them. */
    CACHES,

    /** The KV caches of conversations that do not answer; their next answer computes the whole conversation again. */
    IDLE_KV,
}

/**
 * What really runs a model: a [library] of some [version] on a [device], with so many [threads].
 *
 * @property engine the name of it that the bundle has
 * @property skipped engines that the bundle prefers to it, each with why it does not run here, in one line; none where one was
 *   asked for
 */
public class Backend internal constructor(
    public val engine: String,
    public val skipped: Map<String, String>,
    public val library: String,
    public val version: String,
    public val device: String,
    public val threads: Int,
) {
    override fun toString(): String = "$library $version, $device, $threads ${if (threads == 1) "thread" else "threads"}"
}

package dev.pocketvlm.runtime

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import dev.pocketvlm.KvBuffer
import dev.pocketvlm.KvMemory
import dev.pocketvlm.bundle.Manifest
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** Little as it takes on a JVM. */
internal fun direct(bytes: Int): ByteBuffer = ByteBuffer.allocateDirect(bytes).order(ByteOrder.nativeOrder())

/**
 * One buffer of a layer's cache under the names of the decoder's input and output: of each of [blocks], [rows] rows of
 * [rowBytes] bytes, whose first [before] stand for what was before the first token.
 */
private class Layout(
    val past: String,
    val present: String,
    val type: OnnxJavaType,
    val shape: LongArray,
    val blocks: Long,
    val rows: Long,
    val rowBytes: Long,
    val before: Int = 0,
) {
    val bytes: Long get() = blocks * rows * rowBytes
}

/** In the order of layers, keys before values; of those with a state nothing (`stateArrays`). */
private fun layouts(manifest: Manifest): List<Layout> = with(manifest.kvCache) {
    val isInt8 = dtype == "int8"
    val type = if (isInt8) OnnxJavaType.INT8 else OnnxJavaType.FLOAT
    layers.flatMapIndexed { layer, cache ->
        val rows = length + maxOf(cache.kernel - 1, 0).toLong()
        if (cache.state != null) {
            emptyList()
        } else if (cache.isConvolution) {
            val shape = longArrayOf(1, rows, cache.width.toLong())
            val bytes = cache.width.toLong() * Float.SIZE_BYTES
            val (past, present) = "past_conv.$layer" to "present_conv.$layer"
            listOf(Layout(past, present, OnnxJavaType.FLOAT, shape, 1, rows, bytes, cache.kernel - 1))
        } else if (cache.source != null) {
            emptyList()
        } else {
            val size = cache.headDim?.toLong() ?: headDim
            val shape = longArrayOf(1, heads, rows, size)
            val rowBytes = size * if (isInt8) 1 else Float.SIZE_BYTES
            listOf("key", "value").map { kind ->
                Layout("past_key_values.$layer.$kind", "present.$layer.$kind", type, shape, heads, rows, rowBytes)
            }
        }
    }
}

/** Of one conversation's KV cache: of all layers, a state twice. */
internal fun kvBytes(manifest: Manifest): Long = layouts(manifest).sumOf { it.bytes } + 2 * stateBytes(manifest)

/** What the rows of convolutions, and states, are as the decoder takes them, by name. */
internal fun ownShapes(manifest: Manifest): Map<String, List<Int>> {
    val rows = layouts(manifest).filter { it.blocks == 1L && it.shape.size == 3 }.map { it.past to it.shape }
    return (rows + stateArrays(manifest).map { it.past to it.shape }).associate { (name, shape) ->
        name to shape.map(Math::toIntExact)
    }
}

/**
 * The buffers of all layers, keys and values [1, heads, length, head_dim] or the rows of a convolution, each both past and
 * present of the decoder, which writes new rows in place. Rows of tokens from [position] on are never read. A state cannot be
 * cut: it goes back to a copy of it.
 *
 * @throws OutOfMemoryError [memory] has not so much
 */
internal class KvCache(environment: OrtEnvironment, manifest: Manifest, memory: KvMemory) : AutoCloseable {
    private val tensors = ArrayList<OnnxTensor>()

    /** What the decoder is given and gives, by name, to which each step adds the rest. */
    val inputs = LinkedHashMap<String, OnnxTensor>()
    val outputs = LinkedHashMap<String, OnnxTensor>()
    var position: Int = 0
        private set

    /** Null where no layer has one. */
    var states: States? = null
        private set
    private val layouts = layouts(manifest)
    private val buffers = ArrayList<KvBuffer>()

    init {
        try {
            for (layout in layouts) {
                val bytes = Math.toIntExact(layout.bytes)
                val buffer = memory.allocate(bytes).also(buffers::add)
                check(buffer.bytes.capacity() >= bytes) { "a KV buffer has fewer than $bytes bytes" }
                val tensor = OnnxTensor.createTensor(environment, whole(buffer.bytes, bytes), layout.shape, layout.type)
                tensors.add(tensor)
                inputs[layout.past] = tensor
                outputs[layout.present] = tensor
            }
            if (stateArrays(manifest).isNotEmpty()) states = States(environment, manifest, memory)
            states?.bind(inputs, outputs)
        } catch (error: Throwable) {
            close()
            throw error
        }
    }

    /** A step has ended, and the cache holds so many tokens. */
    fun advance(to: Int) {
        states?.run {
            flip()
            bind(inputs, outputs)
        }
        position = to
    }

    /** Forgets the tokens from [to] on, and where there is a state those behind its last copy before: see [position]. */
    fun rewind(to: Int) {
        if (to != position) position = states?.rewind(to) ?: to
    }

    /** So many tokens' rows, and the state behind them, were put here. */
    fun restored(tokens: Int) {
        position = tokens
    }

    /** The first so many tokens' rows: those of each head in turn, of all layers' keys and values, or of a convolution. */
    fun forRows(count: Int, use: (ByteBuffer) -> Unit) {
        for ((layout, buffer) in layouts.zip(buffers)) for (block in 0 until layout.blocks) {
            val rows = buffer.bytes.duplicate()
            val first = Math.toIntExact((block * layout.rows + layout.before) * layout.rowBytes)
            rows.limit(first + Math.toIntExact(count * layout.rowBytes)).position(first)
            use(rows)
        }
    }

    override fun close() {
        tensors.forEach(OnnxTensor::close)
        buffers.forEach(KvBuffer::close)
        states?.close()
    }
}

private fun whole(buffer: ByteBuffer, bytes: Int): ByteBuffer =
    buffer.duplicate().order(ByteOrder.nativeOrder()).also { it.clear().limit(bytes) }

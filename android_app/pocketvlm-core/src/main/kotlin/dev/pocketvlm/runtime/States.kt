package dev.pocketvlm.runtime

import ai.onnxruntime.OnnxJavaType
import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import dev.pocketvlm.KvBuffer
import dev.pocketvlm.KvMemory
import dev.pocketvlm.bundle.Manifest
import java.nio.ByteBuffer
import java.nio.ByteOrder

/** How many copies of its state a conversation keeps: as Python's runtime. */
internal const val SNAPSHOTS = 4

/** Where an array begins in a state's memory is a multiple of so many bytes. */
private const val ALIGNMENT = 64L

/** An array of a layer's state, float32, under the names of the decoder's input and output. */
internal class StateArray(val past: String, val present: String, val shape: LongArray) {
    val bytes: Long get() = shape.fold(Float.SIZE_BYTES.toLong(), Long::times)
}

/** In the order of layers: the last rows of the convolution, then the matrices. */
internal fun stateArrays(manifest: Manifest): List<StateArray> = manifest.kvCache.layers.flatMapIndexed { layer, cache ->
    cache.state?.let { of ->
        val rows = longArrayOf(1, cache.kernel - 1L, cache.width.toLong())
        val matrices = longArrayOf(1, of.heads.toLong(), of.keyWidth.toLong(), of.valueWidth.toLong())
        listOf("conv" to rows, "state" to matrices).map { (name, shape) ->
            StateArray("past_$name.$layer", "present_$name.$layer", shape)
        }
    }.orEmpty()
}

/** Of one copy of a conversation's state: of all layers that have one. */
internal fun stateBytes(manifest: Manifest): Long = stateArrays(manifest).sumOf { it.bytes }

/**
 * A conversation's state, which is one for all tokens so far, and copies of it to go back to (`runtime/states.py`). It is
 * there twice: a step reads one and writes the other, so that one that fails leaves the state as it was.
 *
 * @throws OutOfMemoryError [memory] has not so much
 */
internal class States(environment: OrtEnvironment, manifest: Manifest, private val memory: KvMemory) : AutoCloseable {
    private class Copy(val position: Int, val buffer: KvBuffer)

    private val arrays = stateArrays(manifest)
    private val starts = arrays.runningFold(0L) { end, one -> (end + one.bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT }
    private val size = Math.toIntExact(starts.last())
    private val sides = ArrayList<KvBuffer>()
    private val tensors = ArrayList<List<OnnxTensor>>()
    private val copies = ArrayList<Copy>() // by position
    private var past = 0 // which side

    init {
        try {
            repeat(2) {
                val side = allocated().also(sides::add)
                val made = ArrayList<OnnxTensor>().also(tensors::add)
                arrays.zip(starts) { one, start ->
                    val part = whole(side).also { it.limit(Math.toIntExact(start + one.bytes)).position(start.toInt()) }.slice()
                    val values = part.order(ByteOrder.nativeOrder())
                    made.add(OnnxTensor.createTensor(environment, values, one.shape, OnnxJavaType.FLOAT))
                }
            }
        } catch (error: Throwable) {
            close()
            throw error
        }
    }

    /** What the next step reads and writes, by name. */
    fun bind(inputs: MutableMap<String, OnnxTensor>, outputs: MutableMap<String, OnnxTensor>) {
        arrays.forEachIndexed { at, one ->
            inputs[one.past] = tensors[past][at]
            outputs[one.present] = tensors[1 - past][at]
        }
    }

    /** What the last step wrote is the state now. */
    fun flip() {
        past = 1 - past
    }

    /**
     * Keeps a copy of the state, which is that behind so many tokens; the lowest one goes where there are many.
     *
     * @throws OutOfMemoryError there is no room for it
     */
    fun keep(position: Int) {
        if (position == 0 || copies.any { it.position == position }) return
        val buffer = if (copies.size == SNAPSHOTS) copies.removeAt(0).buffer else allocated()
        whole(buffer).put(whole(sides[past]))
        copies.add(Copy(position, buffer))
    }

    /** Goes back to the last copy that is not behind [position], or to the beginning; gives where that is. */
    fun rewind(position: Int): Int {
        while (copies.isNotEmpty() && copies.last().position > position) copies.removeAt(copies.size - 1).buffer.close()
        val last = copies.lastOrNull()
        val state = whole(sides[past])
        if (last != null) state.put(whole(last.buffer)) else while (state.hasRemaining()) state.put(0)
        return last?.position ?: 0
    }

    /** Positions of the copies up to [position], in their order. */
    fun kept(position: Int): List<Int> = copies.map { it.position }.filter { it <= position }

    /** The bytes of a copy, or of the state itself where [position] is null, to be read. */
    fun bytes(position: Int?): ByteBuffer =
        whole(if (position == null) sides[past] else copies.first { it.position == position }.buffer)

    /** Room for the bytes of another copy, the highest so far, or of the state itself where [position] is null. */
    fun room(position: Int?): ByteBuffer {
        if (position == null) return whole(sides[past])
        return whole(allocated().also { copies.add(Copy(position, it)) })
    }

    override fun close() {
        tensors.flatten().forEach(OnnxTensor::close)
        (sides + copies.map { it.buffer }).forEach(KvBuffer::close)
        copies.clear()
    }

    private fun allocated(): KvBuffer = memory.allocate(size).also { buffer ->
        check(buffer.bytes.capacity() >= size) { "a buffer has fewer than $size bytes" }
    }

    private fun whole(buffer: KvBuffer): ByteBuffer = buffer.bytes.duplicate().also { it.clear().limit(size) }
}

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

/** Of a number of the cache's. */
private fun numberBytes(manifest: Manifest): Int = if (manifest.kvCache.dtype == "int8") 1 else Float.SIZE_BYTES

/** Of one conversation's KV cache: keys and values of all layers. */
internal fun kvBytes(manifest: Manifest): Long = with(manifest.kvCache) {
    2L * manifest.model.layers * heads * length * headDim * numberBytes(manifest)
}

/**
 * A key and a value buffer a layer, [1, heads, length, head_dim], each both past and present of the decoder, which writes
 * new rows in place. Rows from [position] on, tokens, are never read.
 *
 * @throws OutOfMemoryError [memory] has not so much
 */
internal class KvCache(environment: OrtEnvironment, manifest: Manifest, memory: KvMemory) : AutoCloseable {
    private val tensors = ArrayList<OnnxTensor>()

    /** What the decoder is given and gives, by name, to which each step adds the rest. */
    val inputs = LinkedHashMap<String, OnnxTensor>()
    val outputs = LinkedHashMap<String, OnnxTensor>()
    var position: Int = 0

    /** In the order of layers, keys before values. */
    private val buffers = ArrayList<KvBuffer>()
    private val heads = Math.toIntExact(manifest.kvCache.heads)
    private val rowBytes = Math.toIntExact(manifest.kvCache.headDim * numberBytes(manifest))
    private val headBytes = rowBytes * manifest.kvCache.length

    init {
        val kv = manifest.kvCache
        val type = if (kv.dtype == "int8") OnnxJavaType.INT8 else OnnxJavaType.FLOAT
        val shape = longArrayOf(1, kv.heads, kv.length.toLong(), kv.headDim)
        val bytes = Math.toIntExact(kv.heads * kv.length * kv.headDim * numberBytes(manifest))
        try {
            for (layer in 0 until manifest.model.layers) for (kind in listOf("key", "value")) {
                val buffer = memory.allocate(bytes).also(buffers::add)
                check(buffer.bytes.capacity() >= bytes) { "a KV buffer has fewer than $bytes bytes" }
                val tensor = OnnxTensor.createTensor(environment, whole(buffer.bytes, bytes), shape, type)
                tensors.add(tensor)
                inputs["past_key_values.$layer.$kind"] = tensor
                outputs["present.$layer.$kind"] = tensor
            }
        } catch (error: Throwable) {
            close()
            throw error
        }
    }

    /** The first so many rows of each head in turn: all layers' keys and values. */
    fun forRows(count: Int, use: (ByteBuffer) -> Unit) {
        for (buffer in buffers) for (head in 0 until heads) {
            val rows = buffer.bytes.duplicate()
            rows.limit(head * headBytes + count * rowBytes).position(head * headBytes)
            use(rows)
        }
    }

    override fun close() {
        tensors.forEach(OnnxTensor::close)
        buffers.forEach(KvBuffer::close)
    }
}

private fun whole(buffer: ByteBuffer, bytes: Int): ByteBuffer =
    buffer.duplicate().order(ByteOrder.nativeOrder()).also { it.clear().limit(bytes) }

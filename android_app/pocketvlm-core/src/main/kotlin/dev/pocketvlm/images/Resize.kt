package dev.pocketvlm.images

import java.util.stream.IntStream
import kotlin.math.PI
import kotlin.math.abs
import kotlin.math.max
import kotlin.math.min
import kotlin.math.sin

/** Bits behind the point of a weight: Pillow's for 8-bit channels. */
private const val PRECISION = 22
private const val HALF = 1 shl (PRECISION - 1)

/** A picture of [width] x [height] pixels: [pixels] are bytes [height, width, 3], red, green, blue. */
internal class Rgb(val width: Int, val height: Int, val pixels: ByteArray)

/**
 * The picture as Pillow resizes it, to the byte (src/libImaging/Resample.c), rows over all cores.
 *
 * [filter] is `bicubic`, `lanczos` or `bilinear`; a side that does not change is not filtered.
 */
internal fun resize(image: Rgb, size: Size, filter: String): Rgb {
    val kernel = KERNELS.getValue(filter)
    // Each pass rounds to bytes, so their order shows. Pillow from 13 on runs the vertical pass first where the height
    // shrinks by more than twice what the width does, in pixels.
    val lower = image.height - size.height
    if (lower > 0 && lower > 2 * (image.width - size.width) && image.width != size.width) {
        return across(down(image, size.height, kernel), size.width, kernel)
    }
    return down(across(image, size.width, kernel), size.height, kernel)
}

private class Kernel(val support: Double, val weight: (Double) -> Double)

private val KERNELS = mapOf(
    "bicubic" to Kernel(2.0, ::bicubic), "lanczos" to Kernel(3.0, ::lanczos), "bilinear" to Kernel(1.0, ::bilinear),
)

/** With a = -0.5. */
private fun bicubic(at: Double): Double {
    val a = -0.5
    val x = abs(at)
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a
    return 0.0
}

private fun sinc(x: Double): Double = if (x == 0.0) 1.0 else sin(x * PI) / (x * PI)

/** A sinc of three lobes, by another one. */
private fun lanczos(x: Double): Double = if (-3.0 <= x && x < 3.0) sinc(x) * sinc(x / 3) else 0.0

/** A triangle. */
private fun bilinear(at: Double): Double = max(1.0 - abs(at), 0.0)

/** Which inputs make one output, and by which fixed-point weights. */
private class Window(val first: Int, val weights: IntArray)

private fun windows(from: Int, to: Int, kernel: Kernel): Array<Window> {
    val scale = from.toDouble() / to
    val filterScale = max(scale, 1.0)
    val support = kernel.support * filterScale
    return Array(to) { at ->
        val center = (at + 0.5) * scale
        val first = max(0, (center - support + 0.5).toInt())
        val last = min(from, (center + support + 0.5).toInt())
        val exact = DoubleArray(last - first) { kernel.weight((first + it - center + 0.5) * (1.0 / filterScale)) }
        var sum = 0.0
        for (weight in exact) sum += weight
        Window(first, IntArray(exact.size) { fixed(if (sum != 0.0) exact[it] / sum else exact[it]) })
    }
}

private fun fixed(weight: Double): Int {
    val scaled = weight * (1 shl PRECISION)
    return (if (scaled < 0) scaled - 0.5 else scaled + 0.5).toInt()
}

private fun rounded(sum: Int): Byte = (sum shr PRECISION).coerceIn(0, 255).toByte()

private fun byte(value: Byte): Int = value.toInt() and 255

private fun across(image: Rgb, width: Int, kernel: Kernel): Rgb {
    if (width == image.width) return image
    val result = Rgb(width, image.height, ByteArray(width * image.height * 3))
    val every = windows(image.width, width, kernel)
    overRows(image.height) { row ->
        var out = row * width * 3
        for (window in every) {
            var at = (row * image.width + window.first) * 3
            var red = HALF
            var green = HALF
            var blue = HALF
            for (weight in window.weights) {
                red += byte(image.pixels[at]) * weight
                green += byte(image.pixels[at + 1]) * weight
                blue += byte(image.pixels[at + 2]) * weight
                at += 3
            }
            result.pixels[out++] = rounded(red)
            result.pixels[out++] = rounded(green)
            result.pixels[out++] = rounded(blue)
        }
    }
    return result
}

private fun down(image: Rgb, height: Int, kernel: Kernel): Rgb {
    if (height == image.height) return image
    val bytes = image.width * 3 // of a row
    val result = Rgb(image.width, height, ByteArray(bytes * height))
    val every = windows(image.height, height, kernel)
    overRows(height) { row ->
        val sums = IntArray(bytes) { HALF }
        every[row].weights.forEachIndexed { index, weight ->
            val from = (every[row].first + index) * bytes
            for (at in 0 until bytes) sums[at] += byte(image.pixels[from + at]) * weight
        }
        for (at in 0 until bytes) result.pixels[row * bytes + at] = rounded(sums[at])
    }
    return result
}

private fun overRows(rows: Int, work: (Int) -> Unit) = IntStream.range(0, rows).parallel().forEach(work)

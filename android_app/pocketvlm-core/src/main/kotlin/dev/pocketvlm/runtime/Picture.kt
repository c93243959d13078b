package dev.pocketvlm.runtime

import dev.pocketvlm.ImageTiling
import dev.pocketvlm.PocketVlmException.ChatInvalid
import dev.pocketvlm.bundle.Grid
import dev.pocketvlm.bundle.Manifest
import dev.pocketvlm.bundle.Vision
import dev.pocketvlm.bundle.hexadecimal
import dev.pocketvlm.images.Packed
import dev.pocketvlm.images.PicturePlan
import dev.pocketvlm.images.Rgb
import dev.pocketvlm.images.Size
import dev.pocketvlm.images.Tiles
import dev.pocketvlm.images.cutTiles
import dev.pocketvlm.images.packed
import dev.pocketvlm.images.planOf
import dev.pocketvlm.tilingOf
import java.security.MessageDigest

/**
 * What stands for a picture of some [size] (pixels) in a prompt: [tokens] of it; [packed] is null where those of the tiles
 * follow one another. [owner] is the bundle that it was cut for, by its manifest's SHA-256. [digest] tells pictures apart by what the model sees of them. [tiles] are what it is encoded from;
 * of one that was saved, [encoded] are its tokens [tokens, hidden] instead.
 */
internal class Picture private constructor(
    val size: Size,
    private val plan: PicturePlan,
    vision: Vision,
    val owner: String,
    val digest: String,
    val tiles: Tiles?,
    val encoded: FloatArray?,
) {
    val grid: Grid = plan.grid
    val thumbnail: Int? = plan.thumbnail
    val packed: Packed? = packedOf(size, plan, vision)

    /** By a rule of parts, how many tokens each has, the thumbnail's among them; null: there are none. */
    val parts: List<Int>? = partsOf(plan, vision)

    /** How many tokens stand at each place of the layout. */
    val tokensByPlace: List<Int> get() = parts ?: List(plan.tiles) { perTile }
    private val perTile = vision.tokensPerTile
    val tokens: Int = tokensOf(plan, vision, packed)

    companion object {
        /** Cuts a picture as the bundle wants it. Errors: [cutTiles]. */
        fun of(image: Rgb, manifest: Manifest): Picture {
            val vision = visionOf(manifest)
            val size = Size(image.width, image.height)
            val tiles = cutTiles(image, vision.preprocessing)
            val shown = if (vision.packing == null) "" else size.toString()
            val plan = planOf(size, vision.preprocessing.tiling)
            val seen = if (vision.preprocessing.tiling.isInParts) "$shown ${tiles.seen}" else shown
            return Picture(size, plan, vision, manifest.sha256, digestOf(tiles, seen), tiles, null)
        }

        /** One that was encoded before. */
        fun saved(size: Size, digest: String, encoded: FloatArray, manifest: Manifest): Picture {
            val vision = visionOf(manifest)
            val plan = planOf(size, vision.preprocessing.tiling)
            return Picture(size, plan, vision, manifest.sha256, digest, null, encoded)
        }
    }
}

/** How a picture of this size would be seen. */
internal fun tilingOf(size: Size, manifest: Manifest): ImageTiling {
    val vision = visionOf(manifest)
    val plan = planOf(size, vision.preprocessing.tiling)
    return tilingOf(size, plan, tokensOf(plan, vision, packedOf(size, plan, vision)), manifest)
}

private fun visionOf(manifest: Manifest): Vision =
    manifest.vision ?: throw ChatInvalid("${manifest.model.name} takes text only, no images")

private fun packedOf(size: Size, plan: PicturePlan, vision: Vision): Packed? =
    vision.packing?.let { packed(size, plan.grid, vision.tokensPerSide, it.mostTiles) }

private fun partsOf(plan: PicturePlan, vision: Vision): List<Int>? =
    vision.patches?.takeIf { vision.preprocessing.tiling.isInParts }?.let { plan.parts.map(it::tokensOf) }

private fun tokensOf(plan: PicturePlan, vision: Vision, packed: Packed?): Int =
    packed?.tokens ?: partsOf(plan, vision)?.sum() ?: Math.multiplyExact(plan.tiles, vision.tokensPerTile)

/** [seen]: what else of it the model sees. */
private fun digestOf(tiles: Tiles, seen: String): String {
    val digest = MessageDigest.getInstance("SHA-256")
    digest.update("${tiles.grid} ${tiles.thumbnail} $seen".toByteArray())
    return hexadecimal(digest.digest(tiles.pixels))
}
